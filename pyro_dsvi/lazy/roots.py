"""Arithmetic of standard deviations that may be zero."""

import torch
from torch import Tensor


def root(variance: Tensor) -> Tensor:
    """Square root, with gradient 0 where it is 0: a row of zeros has no noise to differentiate."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """Quotient, and 0 where the divisor is 0."""
    zero = y == 0
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, y))
