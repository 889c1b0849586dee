"""The expected gradient of an objective: from every draw that its step can make, or from many."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.gradient import Gradient, Moments, rounding
from pyro_dsvi.diagnostics.handlers import Given
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Draw
from pyro_dsvi.diagnostics.undisturbed import (
    Memory,
    parameters_of,
    random_state,
    same_random_state,
)


def step(objective: Any, programs: Programs) -> list[Tensor]:
    """One estimate of the bound's gradient, parameter by parameter.

    It is what ``pyro.infer.SVI`` would give its optimizer.
    """
    return _step(objective, programs)[1]


def step_with_value(objective: Any, programs: Programs) -> tuple[float, list[Tensor]]:
    """One estimate of the bound in nats, and of its gradient, parameter by parameter."""
    loss, gradient = _step(objective, programs)
    return -float(loss), gradient


def _step(objective: Any, programs: Programs) -> tuple[Any, list[Tensor]]:
    """What the objective returns, and the gradient that it leaves behind."""
    leaves = list(programs.parameters.values())
    for leaf in (*leaves, *parameters_of(objective)):
        leaf.grad = None
    loss = objective.loss_and_grads(
        programs.model, programs.guide, *programs.args, **programs.kwargs
    )
    return loss, [torch.zeros_like(p) if p.grad is None else -p.grad for p in leaves]


def sampled(objective: Any, programs: Programs, num_samples: int) -> Gradient:
    """The mean of many steps, in the course of which the baselines learn as in training.

    Whatever they have learnt, each step's expectation is to be the gradient; so the deviations are
    martingale differences, and their mean has the standard error of independent ones.
    """
    moments = Moments(list(programs.parameters))
    for _ in range(num_samples):
        moments.add(step(objective, programs))
    return moments.gradient(f"mean of {num_samples} steps")


def visited(
    objective: Any, programs: Programs, draws: Sequence[Draw], num_particles: int
) -> Gradient | None:
    """The expectation over every joint draw of the particles; None if a step draws anything else.

    What the baselines have learnt is the same at every draw.

    Args:
        objective: the objective.
        programs: model and guide.
        draws: all joint draws of one particle.
        num_particles: K.
    """
    mean = [torch.zeros_like(p, dtype=torch.float64) for p in programs.parameters.values()]
    size = list(mean)
    for weight, gradient in every_step(objective, programs, draws, num_particles):
        if weight is None:
            return None
        terms = [weight * g.double() for g in gradient]
        mean = [m + term for m, term in zip(mean, terms, strict=True)]
        size = [s + term.abs() for s, term in zip(size, terms, strict=True)]
    names = list(programs.parameters)
    eps = [torch.finfo(p.dtype).eps for p in programs.parameters.values()]
    visits = len(draws) ** num_particles
    return Gradient(
        _by_name(names, mean),
        _by_name(names, [torch.zeros_like(m) for m in mean]),
        _by_name(names, [rounding(s, e) for s, e in zip(size, eps, strict=True)]),
        f"every joint draw visited ({visits}), weighted by its probability",
        exact=True,
    )


def every_step(
    objective: Any, programs: Programs, draws: Sequence[Draw], num_particles: int
) -> Iterator[tuple[float | None, list[Tensor]]]:
    """The estimate at every joint draw of the particles, with the draw's probability.

    What the baselines have learnt is the same at every draw.  None for a probability says that
    the step leaves more to chance than these draws; it comes last.

    Args:
        objective: the objective.
        programs: model and guide.
        draws: all joint draws of one particle.
        num_particles: K.
    """
    memory = Memory(objective)
    before = random_state()
    for joint in product(draws, repeat=num_particles):
        memory.recall()
        with Given([draw.values for draw in joint]):
            gradient = step(objective, programs)
        if not same_random_state(before, random_state()):
            yield None, gradient
            return
        yield math.exp(sum(float(draw.log_q.detach()) for draw in joint)), gradient


def _by_name(names: Sequence[str], tensors: Sequence[Tensor]) -> Mapping[str, Tensor]:
    return dict(zip(names, tensors, strict=True))
