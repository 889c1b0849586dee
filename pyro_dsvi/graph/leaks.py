"""Where the content of a tensor leaves torch without being a tensor.

A number, an array, a string tell of content; so does the shape of some results, such as that of
``nonzero`` or of a slice whose end is a draw.  A size, a dtype, a device do not.
"""

from collections.abc import Mapping
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
    new_zeros new_ones new_empty new_full tril_indices triu_indices
    """.split()
)
# or of one that stands for a size, behind the tensor itself.
_SIZED = frozenset(
    """
    expand repeat tile reshape view narrow split chunk tensor_split unflatten as_strided unfold pad
    interpolate topk diag resize_ multinomial hsplit vsplit dsplit broadcast_to select
    """.split()
)
SHAPE_MAY_TELL = frozenset(
    getattr(room, name)
    for room in (torch, Tensor, torch.nn.functional)
    for name in (*_SHAPE_TELLS, *_SIZED, "where", "one_hot", "__getitem__")
    if hasattr(room, name)
)


def telling(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of a torch function of whose content the shape of its result tells.

    Args:
        name: name of a function in ``SHAPE_MAY_TELL``.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    everything = (*args, *kwargs.values())
    if name in _SHAPE_TELLS:
        return everything
    if name in _SIZED:
        return everything[1:]
    if name == "where":
        return everything if len(args) == 1 else ()
    if name == "one_hot":
        return everything if len(args) == 1 and "num_classes" not in kwargs else ()
    index = args[1] if isinstance(args[1], tuple) else (args[1],)  # __getitem__
    tells = any(
        isinstance(i, slice) or (isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8))
        for i in index
    )
    return index if tells else ()
