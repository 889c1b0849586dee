"""Take the steps of a hostile program, and keep what came of each."""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from tests.compiled.hostile.case import STEPS, Case, Hostile

MakeStep = Callable[[Case, Any], Callable[..., float]]


@dataclass
class Trajectory:
    """What came of each step, and what was said on the way."""

    states: list[dict[str, Any]] = field(default_factory=list)
    said: list[tuple[int, str]] = field(default_factory=list)

    def difference(self, other: "Trajectory", relative: float = 1e-7) -> str | None:
        """The first step at which two trajectories differ, and where; None if they agree."""
        for step, (mine, its) in enumerate(zip(self.states, other.states, strict=True)):
            if mine.keys() != its.keys():
                return f"step {step}: {sorted(mine.keys() ^ its.keys())} in one of them only"
            for name, value in mine.items():
                if not same(value, its[name], relative):
                    return f"step {step}: {name} is {value}, not {its[name]}"
        return None


def same(one: Any, other: Any, relative: float) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if one.dtype == torch.float32:
            relative = max(relative, 2e-4)
        return torch.allclose(one, other, rtol=relative, atol=relative, equal_nan=True)
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=relative, atol=relative, equal_nan=True))
    return type(one) is type(other) and one == other


def take_steps(
    program: Hostile, make_step: MakeStep, steps: int = STEPS, *, several: int = 1
) -> Trajectory:
    """Run a program from a fixed seed and an empty param store.

    Args:
        program: the program.
        make_step: from the case and its objective to what takes a step.
        steps: how many.
        several: how many of them are taken between one change and the next.
    """
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(7)
    case = program.build()
    pyro.set_rng_seed(8)
    taken = Trajectory()
    take = make_step(case, case.optim())
    for step in range(steps):
        case.before(step)
        with warnings.catch_warnings(record=True) as caught, case.around(step):
            warnings.simplefilter("always")
            try:
                loss = [take(*case.args(step)) for _ in range(several)]
            except (ArithmeticError, ValueError, torch.linalg.LinAlgError) as error:
                loss = [type(error).__name__]
        taken.said += [(step, str(w.message)) for w in caught]
        taken.states.append(snapshot(loss, case))
    return taken


def eagerly(case: Case, optim: Any) -> Callable[..., float]:
    """What is right: Pyro's own steps, with the case's objective as it is."""
    return SVI(case.model, case.guide, optim, case.loss()).step


@functools.cache
def right(program: Hostile, steps: int = STEPS, several: int = 1) -> Trajectory:
    """The eager trajectory."""
    return take_steps(program, eagerly, steps, several=several)


def snapshot(loss: list[Any], case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {"loss": loss[-1], "random state": torch.get_rng_state()}
    for name, value in pyro.get_param_store().items():
        found[name] = value.detach().clone()
    for index, value in enumerate(case.state()):
        copied = value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        found[f"state {index}"] = copied
    return found
