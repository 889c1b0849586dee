"""The one place where the noise of lazily drawn tensors comes from."""

from collections.abc import Sequence

import torch
from torch import Tensor


def standard_normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Independent standard normal numbers, of the dtype and on the device of ``like``."""
    return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)


def signs(shape: Sequence[int], like: Tensor) -> Tensor:
    """Independent fair signs, of the dtype and on the device of ``like``."""
    heads = torch.randint(0, 2, tuple(shape), dtype=torch.int8, device=like.device)
    return (2 * heads - 1).to(like.dtype)
