"""What distinguishes one call of a step from another: its signature.

Tensors count by shape, strides, dtype, device and whether they require a gradient; numbers and
strings by value; other objects by identity.  What torch assumes by default counts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

_PLAIN = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(eq=False, slots=True)
class Call:
    """Programs and arguments of one step.

    Attributes:
        key: the signature, hashable.
        tensors: the tensor arguments, detached.
        others: the arguments that are compared by identity, and looked into.
        leaves: all arguments, flat.
        spec: how they are nested; None for positional tensors.
    """

    key: tuple[Any, ...]
    tensors: list[Tensor]
    others: list[Any]
    leaves: list[Any]
    spec: Any

    @classmethod
    def of(
        cls, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "Call | str":
        """The call's signature; or why it has none."""
        ambient = torch.get_default_dtype(), _autocast(), _modes()
        if kwargs or not all(type(x) is Tensor for x in args):
            leaves, spec = tree_flatten((args, dict(kwargs)))
        else:
            leaves, spec = list(args), None
        parts: list[Any] = [spec if len(leaves) != len(args) or kwargs else len(args)]
        tensors, others = [], []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                if leaf.requires_grad and leaf.is_leaf:
                    parts.append(id(leaf))
                    others.append(leaf)
                    continue
                if leaf.requires_grad:
                    return "an argument carries a gradient to something outside the step"
                if type(leaf) is not Tensor and type(leaf) is not torch.nn.Parameter:
                    return f"an argument is a {type(leaf).__name__}"
                if leaf.layout is not torch.strided:
                    return "an argument is a sparse tensor"
                parts += (leaf.shape, leaf.stride(), leaf.dtype, leaf.device)
                tensors.append(leaf)
            elif isinstance(leaf, float):
                parts += (type(leaf), repr(leaf))
            elif isinstance(leaf, _PLAIN):
                parts += (type(leaf), leaf)
            else:
                parts.append(id(leaf))
                others.append(leaf)
        if len(tensors) > 1:
            parts.append(_shared(tensors))
        return cls((model, guide, *ambient, *parts), tensors, others, leaves, spec)

    def fresh(self) -> tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]:
        """Tensor arguments that nothing else refers to, and all arguments with these in place."""
        aliases = [tensor.detach() for tensor in self.tensors]
        mine = {id(tensor): alias for tensor, alias in zip(self.tensors, aliases, strict=True)}
        leaves = [mine.get(id(leaf), leaf) for leaf in self.leaves]
        if self.spec is None:
            return aliases, tuple(leaves), {}
        args, kwargs = tree_unflatten(leaves, self.spec)
        return aliases, args, kwargs


def _shared(tensors: list[Tensor]) -> tuple[Any, ...]:
    """Which of some tensors are one and the same, and which share memory, and how."""
    if all(map(Tensor.is_contiguous, tensors)):
        ends = sorted((x.data_ptr(), x.data_ptr() + x.nbytes) for x in tensors)
        if all(stop <= start for (_, stop), (start, _) in pairwise(ends)):
            return ()
    first: dict[int, tuple[int, Any]] = {}
    parts: list[Any] = []
    for index, tensor in enumerate(tensors):
        start = tensor.untyped_storage().data_ptr()
        if not start:
            continue
        known, offset = first.setdefault(start, (index, tensor.storage_offset()))
        if known != index:
            same = next(i for i, other in enumerate(tensors) if other is tensor)
            parts.append((index, known, tensor.storage_offset() - offset, same))
    return tuple(parts)


def _autocast() -> Any:
    """To which dtypes products are cast, by device."""
    if not torch._C._is_any_autocast_enabled():  # the usual case, asked at each step
        return None
    return tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in ("cpu", "cuda")
    )


def _modes() -> Any:
    if torch._C._len_torch_function_stack() == 0:
        return 0
    return str(torch.get_default_device()), torch._C._len_torch_function_stack()
