"""Expectations over every joint draw of a program's binary latents: exact, by summation.

The programs' parameters are leaf tensors that the programs close over.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Draw = Mapping[str, Tensor]
Program = Callable[..., Any]


class Drawn(Messenger):
    """Gives latents their values, in the place of the random generator."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw

    def _pyro_sample(self, msg: Any) -> None:
        given = msg["name"] in self.draw and not (msg["done"] or msg["is_observed"])
        if given and not site_is_subsample(msg):
            msg["value"] = self.draw[msg["name"]].clone()
            msg["done"] = True


def every_draw(**shapes: Sequence[int]) -> Iterator[Draw]:
    """Every joint value of binary latents of the given shapes."""
    sizes = {name: torch.Size(shape) for name, shape in shapes.items()}
    for bits in itertools.product((0.0, 1.0), repeat=sum(s.numel() for s in sizes.values())):
        rest = iter(bits)
        yield {
            name: torch.tensor([next(rest) for _ in range(size.numel())]).reshape(size)
            for name, size in sizes.items()
        }


def probability(guide: Program, draw: Draw) -> Tensor:
    """The guide's probability of a draw, whatever scale its sites carry.

    A site that is not visited counts as a fair coin.
    """
    with Drawn(draw):
        nodes = poutine.trace(guide).get_trace().nodes
    log_q = torch.zeros(())
    for name, value in draw.items():
        if name in nodes:
            log_q = log_q + nodes[name]["fn"].log_prob(value).sum()
        else:
            log_q = log_q - value.numel() * math.log(2)
    return log_q.exp()


def elbo(model: Program, guide: Program, draws: Iterator[Draw]) -> Tensor:
    """The evidence lower bound, differentiable, from Pyro's traces and nothing of ours.

    Log densities are scaled as the programs say; probabilities are not.
    """
    total = torch.zeros(())
    for draw in draws:
        with Drawn(draw):
            q = poutine.trace(guide).get_trace()
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace()
        log_w = p.log_prob_sum() - q.log_prob_sum()
        total = total + probability(guide, draw) * log_w
    return total


def gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient with respect to all parameters, as one vector."""
    parts = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(parts, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])


def gradient_at(
    objective: Any, model: Program, guide: Program, parameters: Sequence[Tensor], draw: Draw
) -> Tensor:
    """The objective's estimate of the bound's gradient at one draw (one particle)."""
    with Drawn(draw):
        loss = objective.differentiable_loss(model, guide)
    return -gradient(loss, parameters)


def expected_gradient(
    objective: Any,
    model: Program,
    guide: Program,
    parameters: Sequence[Tensor],
    draws: Iterator[Draw],
) -> Tensor:
    """The expectation of the objective's estimate of the bound's gradient (one particle)."""
    total = torch.zeros(())
    for draw in draws:
        weight = probability(guide, draw).detach()
        total = total + weight * gradient_at(objective, model, guide, parameters, draw)
    return total
