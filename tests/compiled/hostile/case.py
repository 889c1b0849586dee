"""A program that a compiler could get wrong, and how it is run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import optim as pyro_optim
from pyro import param, poutine, sample
from torch import Tensor

import pyro_dsvi as dsvi

STEPS = 16
CHANGE = 8  # the step before which a program changes: by then it is replayed


def nothing(step: int) -> None:
    """Between steps, nothing happens."""


def adam() -> Any:
    return pyro_optim.Adam({"lr": 0.05})


@dataclass(eq=False)
class Case:
    """A fresh pair of programs, and what happens around their steps.

    Attributes:
        model: the model.
        guide: the guide.
        before: called before each step with its number.
        args: positional arguments of a step, by its number.
        around: a context for a step, by its number.
        loss: makes the objective.
        optim: makes the optimizer.
        state: further state that a step must leave as an eager one does.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    before: Callable[[int], Any] = nothing
    args: Callable[[int], tuple[Any, ...]] = lambda step: ()
    around: Callable[[int], AbstractContextManager[Any]] = lambda step: nullcontext()
    loss: Callable[..., Any] = dsvi.MixedELBO
    optim: Callable[[], Any] = adam
    state: Callable[[], list[Any]] = list


@dataclass(frozen=True)
class Hostile:
    """A program, and what may become of it.

    Attributes:
        build: makes a fresh case; its docstring says what is hostile in it.
        eager: part of the warning with which it is run eagerly; None if it is to be replayed.
        late: the change is seen only when the recording is checked again.
        free: it may be replayed as well as run eagerly, with whatever reason.
        tame: a replay without any precaution gets it right as well.
    """

    build: Callable[[], Case]
    eager: str | None = None
    late: bool = False
    free: bool = False
    tame: bool = False

    @property
    def name(self) -> str:
        return self.build.__name__


@dataclass
class Box:
    """A number that a program reads."""

    value: Any = 1.0
    step: int = field(default=0)


X = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)
Y = torch.sin(3.0 * X)


def mean_field(names: str = "z", shape: tuple[int, ...] = ()) -> Callable[..., None]:
    """A guide of independent Normal sites."""

    def guide(*args: Any, **kwargs: Any) -> None:
        for name in names.split():
            loc = param(f"loc {name}", lambda: torch.full(shape, 0.3))
            scale = param(
                f"scale {name}",
                lambda: torch.full(shape, 0.5),
                constraint=dist.constraints.positive,
            )
            sample(name, dist.Normal(loc, scale).to_event(len(shape)))

    return guide


def around_zero(name: str = "z") -> Tensor:
    return sample(name, dist.Normal(torch.zeros(()), 1.0))


def observe(loc: Any, data: Tensor | None = None, scale: Any = 0.5) -> None:
    """Observe data, by default twelve numbers."""
    data = Y if data is None else data
    with pyro.plate("data", len(data)):
        sample("y", dist.Normal(loc, scale), obs=data)


def plain_model():
    observe(around_zero())


def scaled(model, factor):
    """The program under ``poutine.scale`` with a factor that is asked for at each step."""

    def annealed(*args):
        with poutine.scale(scale=factor()):
            model(*args)

    return annealed
