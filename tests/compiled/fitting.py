"""Fit a program in the ordinary way and by replay, from the same seed, and compare."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

import pyro_dsvi as dsvi
from tests.compiled.programs import Pair

RECORDED = dsvi.Compilation(backend="recorded", first_check=10)


class Fit(NamedTuple):
    """What came of a fit."""

    losses: list[float]
    parameters: dict[str, Tensor]
    random: Tensor
    svi: Any
    optimizer: dict[str, Any]


def seeded(build: Callable[[], Pair]) -> Pair:
    """Build a program from a fixed seed, with an empty param store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    return build()


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.02})


def fit(
    build: Callable[[], Pair],
    loss: dsvi.Objective,
    *,
    steps: int = 20,
    whole: bool = False,
    optim: Callable[[], Any] = adam,
) -> Fit:
    """Take some steps; ``whole`` by ``CompiledSVI``."""
    pair = seeded(build)
    svi = (dsvi.CompiledSVI if whole else SVI)(pair.model, pair.guide, optim(), loss)
    pyro.set_rng_seed(2)
    losses = [svi.step(*pair.args) for _ in range(steps)]
    parameters = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
    state = copy.deepcopy(svi.optim.get_state())
    return Fit(losses, parameters, torch.get_rng_state(), svi, state)


def assert_same(one: Fit, other: Fit, tolerance: float = 2e-4) -> None:
    """Losses, parameters and the random stream agree."""
    torch.testing.assert_close(
        torch.tensor(one.losses), torch.tensor(other.losses), rtol=tolerance, atol=tolerance
    )
    assert one.parameters.keys() == other.parameters.keys()
    for name, value in one.parameters.items():
        torch.testing.assert_close(
            value, other.parameters[name], rtol=tolerance, atol=tolerance, msg=name
        )
    assert torch.equal(one.random, other.random)


def replays(svi: Any) -> int:
    """Steps that a ``CompiledSVI``, or an objective's own recordings, have taken by replay."""
    replayer = getattr(svi, "_replayer", None) or svi._compiled.replayer
    assert not replayer.refused
    return sum(e.steps for entries in replayer.entries.values() for e in entries if e.verified)


@contextmanager
def silent() -> Iterator[None]:
    """No warning of any kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
