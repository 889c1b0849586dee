"""Where the content of a tensor leaves torch without being a tensor.

A number, an array, a string tell of content; so does the shape of some results, such as that of
``nonzero`` or of a slice whose end is a draw.  A size, a dtype, a device do not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# Results that are no tensor and yet tell nothing of a tensor's content.
METADATA = frozenset(
    """
    size dim ndimension stride numel nelement __len__ dim_order storage_offset element_size
    type result_type can_cast promote_types is_floating_point is_complex is_signed is_contiguous
    is_same_size is_set_to is_inference is_pinned is_shared is_tensor get_device
    broadcast_shapes __dlpack_device__ __get__ __hash__
    requires_grad_ retain_grad register_hook backward
    set_grad_enabled _set_grad_enabled _is_view _has_compatible_shallow_copy_type manual_seed
    """.split()
)
# Results whose very shape tells of the content of an argument: of any argument,
_SHAPE_TELLS = frozenset(
    """
    nonzero argwhere masked_select unique unique_consecutive _unique2 repeat_interleave bincount
    zeros ones empty full rand randn randint randperm arange range linspace logspace eye
    tril_indices triu_indices
    """.split()
)
# or of one that stands for a size, behind the tensor itself.
_SIZED = frozenset(
    """
    expand repeat tile reshape view narrow split chunk tensor_split unflatten as_strided unfold pad
    new_zeros new_ones new_empty new_full interpolate topk diag resize_ multinomial select
    hsplit vsplit dsplit broadcast_to
    """.split()
)
# Functions in which a whole number behind the first argument is a value or an index, and no size.
_VALUES = frozenset(
    """
    add sub subtract rsub mul multiply div divide true_divide floor_divide pow float_power
    remainder fmod maximum minimum fmax fmin clamp clip lerp atan2 hypot ldexp xlogy logaddexp
    addcmul addcdiv eq ne lt le gt ge isclose isin and or xor bitwise_and bitwise_or bitwise_xor
    logical_and logical_or logical_xor masked_fill fill copy full_like where broadcast_tensors
    expand_as view_as type_as to embedding index_select gather take take_along_dim index_put
    index_add scatter scatter_add put setitem getitem binary_cross_entropy_with_logits
    binary_cross_entropy nll_loss cross_entropy mse_loss
    """.split()
)
_OTHERS = ("where", "one_hot", "__getitem__")


def _functions(*names: str) -> frozenset[Any]:
    rooms = (torch, Tensor, torch.nn.functional)
    return frozenset(getattr(room, n) for room in rooms for n in names if hasattr(room, n))


# After these, an array outside torch may hold the same memory as a tensor.
SHARES_MEMORY = _functions(
    "numpy", "__array__", "from_numpy", "as_tensor", "asarray", "from_dlpack"
)
# Functions that need a second look, whatever they are given.
MAY_LEAK = _functions(*_SHAPE_TELLS, *_SIZED, *_OTHERS, "broadcast_tensors") | SHARES_MEMORY


def telling(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of a torch function of whose content the shape of its result tells.

    Args:
        func: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    name, everything = getattr(func, "__name__", ""), (*args, *kwargs.values())
    if name in _SHAPE_TELLS:
        return everything
    if name in _SIZED:
        return everything[1:]
    if name == "where":
        return everything if len(args) == 1 else ()
    if name == "one_hot":
        return everything if len(args) == 1 and "num_classes" not in kwargs else ()
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return index if any(map(_is_range_or_mask, index)) else ()
    if name.strip("_").removeprefix("r").removeprefix("i") in _VALUES or name.strip("_") in _VALUES:
        return ()
    # In any other function a whole number behind the first argument may be a size or a dimension.
    return tuple(_whole_numbers(everything[1:]))


def _whole_numbers(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for x in arguments:
        if isinstance(x, (tuple, list)):
            yield from _whole_numbers(x)
        elif isinstance(x, Tensor) and x.dim() == 0 and not x.dtype.is_floating_point:
            yield x


def _is_range_or_mask(x: Any) -> bool:
    return isinstance(x, slice) or (isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8))
