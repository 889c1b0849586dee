"""Optimizers' updates as arithmetic on one flat vector of parameters.

Each says what torch's or Pyro's optimizer of that name does, for all parameters that share its
settings at once, with the step count and the learning rate as tensors.  State goes by the names
under which the optimizer keeps it.

Each is a function of the parameters ``[n]``, the loss's gradient ``[n]``, the state tensors
(``[n]`` each, by the names in ``state``), the number of the step from 1 and the learning rate
(scalars in double precision), and returns parameters and state after the step.  ``decay`` is the
factor by which the learning rate falls before each step.

References:
    :cite:p:`kingma2015adam`, :cite:p:`loshchilov2019adamw`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.optim.clipped_adam import ClippedAdam as PyroClippedAdam
from torch import Tensor


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam`` and, with ``decoupled``, ``torch.optim.AdamW``."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool
    maximize: bool
    state: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    decay: ClassVar[float] = 1.0

    def __call__(self, p, g, state, step, lr):
        (first, second), (mean, square) = self.betas, state
        g = -g if self.maximize else g
        if self.weight_decay and self.decoupled:
            p = p * (1 - lr * self.weight_decay)
        elif self.weight_decay:
            g = g + self.weight_decay * p
        mean = mean + (1 - first) * (g - mean)
        square = square * second + (1 - second) * (g * g)
        size = square.sqrt() / (1 - second**step).sqrt() + self.eps
        return p - (lr / (1 - first**step)) * (mean / size), [mean, square]


@dataclass(frozen=True)
class ClippedAdam:
    """``pyro.optim.ClippedAdam``."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    decay: float
    centered: bool
    state: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    def __call__(self, p, g, state, step, lr):
        (first, second), (mean, square) = self.betas, state
        g = g.clamp(-self.clip_norm, self.clip_norm)
        g = g + self.weight_decay * p if self.weight_decay else g
        mean = mean * first + (1 - first) * g
        deviation = g - mean if self.centered else g
        square = square * second + (1 - second) * (deviation * deviation)
        size = square.sqrt() + self.eps
        rate = lr * (1 - second**step).sqrt() / (1 - first**step)
        return p - rate * (mean / size), [mean, square]


@dataclass(frozen=True)
class SGD:
    """``torch.optim.SGD``."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    decay: ClassVar[float] = 1.0

    @property
    def state(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def __call__(self, p, g, state, step, lr):
        g = -g if self.maximize else g
        g = g + self.weight_decay * p if self.weight_decay else g
        if not self.momentum:
            return p - lr * g, []
        buffer = self.momentum * state[0] + (1 - self.dampening) * g
        g = g + self.momentum * buffer if self.nesterov else buffer
        return p - lr * g, [buffer]


Update = Adam | ClippedAdam | SGD


def update_of(optimizer: Any) -> Update | None:
    """The update that a torch optimizer does; None if it is not one of the above."""
    if len(optimizer.param_groups) != 1 or not isinstance(
        optimizer.param_groups[0]["lr"], (int, float)
    ):
        return None
    group = optimizer.param_groups[0]
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        if group["amsgrad"] or group["capturable"] or group["differentiable"]:
            return None
        if any(isinstance(beta, Tensor) for beta in group["betas"]):
            return None
        decoupled = group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
        return Adam(
            tuple(group["betas"]),
            group["eps"],
            group["weight_decay"],
            bool(decoupled),
            group["maximize"],
        )
    if type(optimizer) is torch.optim.SGD and not group["differentiable"]:
        return SGD(
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )
    if type(optimizer) is PyroClippedAdam:
        return ClippedAdam(
            tuple(group["betas"]),
            group["eps"],
            group["weight_decay"],
            group["clip_norm"],
            group["lrd"],
            group["centered_variance"],
        )
    return None
