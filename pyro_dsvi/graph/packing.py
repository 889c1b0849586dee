"""Packed tensors, as Pyro has them: a letter for each dimension whose size is not one."""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor


def alike(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Packed tensors in the dtype that arithmetic would give them together."""
    tensors = list(tensors)
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    return [x if x.dtype == dtype else named(x.to(dtype), letters_of(x)) for x in tensors]


def letters_of(x: Tensor) -> str:
    """The letters of a packed tensor's dimensions."""
    return x._pyro_dims  # pyright: ignore[reportAttributeAccessIssue]


def named(x: Tensor, letters: str) -> Tensor:
    """Name a tensor's dimensions, which makes it a packed one."""
    x._pyro_dims = letters  # pyright: ignore[reportAttributeAccessIssue]
    return x
