"""Arithmetic of standard deviations that may be zero."""

from typing import Any

import torch
from torch import Tensor


def root(variance: Tensor) -> Tensor:
    """Square root, with gradient 0 where it is 0: a row of zeros has no noise to differentiate."""
    found: Any = _Root.apply(variance)
    return found


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """Quotient, and 0 where the divisor is 0."""
    zero = y == 0
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, y))


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, variance: Tensor) -> Tensor:
        std = variance.clamp(min=0.0).sqrt()
        ctx.save_for_backward(std)
        return std

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (std,) = ctx.saved_tensors
        return gradients[0] / (2 * std).masked_fill(std == 0, torch.inf)
