"""The one list of cases: bound x baseline x densities x particles x program.

A new bound is one entry in ``BOUNDS`` (with its value written by hand; one whose guide follows
something else in ``test_bound_family.FAMILY``), a new baseline one in
``BASELINES``, a new estimator one in ``ESTIMATORS``; each then meets every particle mode, live and
frozen, on the small programs of ``tests/scenarios.py``.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage, Neural, OptimalScale
from pyro_dsvi.bounds import IWAE, Evidence, Renyi
from pyro_dsvi.errors import PlatesMergedWarning
from tests import oracles
from tests.scenarios import SCENARIOS, Scenario

BOUNDS = {
    "evidence": (Evidence(), oracles.evidence),
    "iwae": (IWAE(), oracles.renyi(0.0)),
    "renyi(0.5)": (Renyi(0.5), oracles.renyi(0.5)),
    "renyi(-1)": (Renyi(-1.0), oracles.renyi(-1.0)),
    "renyi(2)": (Renyi(2.0), oracles.renyi(2.0)),
}


def _neural() -> Neural:
    return Neural(torch.nn.Linear(1, 1).double(), inputs=torch.ones(1, dtype=torch.float64))


BASELINES: dict[str, Callable[[], dsvi.baselines.Baseline | None]] = {
    "none": lambda: None,
    "moving average": MovingAverage,
    "neural": _neural,
    "leave-one-out": LeaveOneOut,
    "scaled moving average": lambda: OptimalScale(MovingAverage()),
    "scaled leave-one-out": lambda: OptimalScale(LeaveOneOut()),
}
AMONG_PARTICLES = ("leave-one-out", "scaled leave-one-out")

ESTIMATORS: dict[str, Callable[..., dsvi.estimators.Estimator]] = {
    "score function": dsvi.ScoreFunction,
    "enumerate": lambda baseline: dsvi.Enumerate(),
}
# Without draws there is nothing to subtract a baseline from, nor a bound of several.
WITHOUT_DRAWS = ("enumerate",)


@dataclass(frozen=True)
class Mode:
    """Particles, and whether they run side by side."""

    num_particles: int
    side_by_side: bool = True

    def __str__(self) -> str:
        return f"{self.num_particles}{'' if self.side_by_side else ' in a loop'}"


ONE, TWO, LOOP, THREE = Mode(1), Mode(2), Mode(2, side_by_side=False), Mode(3)


@dataclass(frozen=True)
class Case:
    """One objective and one program; names refer to the tables above.

    The estimator stands at the discrete sites, and at the Normal ones too if ``everywhere``.
    """

    scenario: str
    bound: str
    baseline: str = "none"
    mode: Mode = ONE
    frozen: bool = False
    estimator: str = "score function"
    everywhere: bool = False

    def __str__(self) -> str:
        parts = [self.scenario, self.bound, str(self.mode), self.estimator, self.baseline]
        parts += ["frozen"] * self.frozen + ["everywhere"] * self.everywhere
        return "-".join(parts)

    @property
    def program(self) -> Scenario:
        return SCENARIOS[self.scenario]

    @property
    def by_hand(self) -> oracles.Bound:
        return BOUNDS[self.bound][1]

    def objective(self) -> dsvi.Objective:
        """The objective, with the case's estimator where it says."""
        sites = self.program.latents if self.everywhere else self.program.discrete
        one = ESTIMATORS[self.estimator](BASELINES[self.baseline]())
        return dsvi.Objective(
            BOUNDS[self.bound][0],
            num_particles=self.mode.num_particles,
            vectorize_particles=self.mode.side_by_side,
            estimators=dict.fromkeys(sites, one),
            frozen=self.frozen,
        )

    def exact(self) -> oracles.Exact:
        """The objective, ready to be run at forced draws."""
        return oracles.Exact(self.objective(), self.program, side_by_side=self.mode.side_by_side)

    @contextmanager
    def warned(self) -> Iterator[None]:
        """Expect to be told of merged plates where, and only where, they are merged."""
        merged = self.program.merges and self.mode.num_particles > 1 and self.bound != "evidence"
        if merged:
            with pytest.warns(PlatesMergedWarning, match="stand under one bound"):
                yield
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield


def _offered(baseline: str, mode: Mode) -> bool:
    return mode.num_particles > 1 or baseline not in AMONG_PARTICLES


def _everything_on_one_program() -> Iterator[Case]:
    """Every bound x estimator x baseline x particle mode, live and frozen, on two linked bits.

    Three particles side by side and live only: they add nothing to two but time.
    """
    for bound in BOUNDS:
        for estimator in ESTIMATORS:
            for baseline in BASELINES:
                for mode in (ONE, TWO, LOOP, THREE):
                    for frozen in (False, True):
                        if estimator in WITHOUT_DRAWS and (bound, baseline) != ("evidence", "none"):
                            continue
                        if _offered(baseline, mode) and not (frozen and mode is THREE):
                            yield Case("pair", bound, baseline, mode, frozen, estimator)


def _every_program() -> Iterator[Case]:
    """Every bound on every discrete program, with the baselines taking turns."""
    turns = list(BASELINES)
    turn = 0
    for name, scenario in SCENARIOS.items():
        if name in ("pair", "nested") or scenario.copies:
            continue
        for bound in BOUNDS:
            for mode in (ONE, TWO, LOOP):
                if mode.side_by_side and mode.num_particles > 1 and not scenario.broadcasts:
                    continue
                # 144 to 256 joint draws of two particles: once in a loop is enough.
                if name in ("events", "grid", "masked") and mode is LOOP and bound != "iwae":
                    continue
                while not _offered(turns[turn % len(turns)], mode):
                    turn += 1
                yield Case(name, bound, turns[turn % len(turns)], mode, frozen=turn % 4 == 1)
                turn += 1


DISCRETE = [*_everything_on_one_program(), *_every_program()]
DISCRETE += [Case("nested", bound, "moving average") for bound in BOUNDS]


def _mixed(baselines: list[str], frozen: bool) -> Iterator[Case]:
    """Every bound on every program with Normal sites, the baselines taking turns."""
    turn = 0
    for name, scenario in SCENARIOS.items():
        if not scenario.copies:
            continue
        for bound in BOUNDS:
            for mode in (ONE, TWO, LOOP):
                while not _offered(baselines[turn % len(baselines)], mode):
                    turn += 1
                yield Case(name, bound, baselines[turn % len(baselines)], mode, frozen)
                turn += 1


MIXED_LIVE = list(_mixed(list(BASELINES), frozen=False))
MIXED_FROZEN = list(_mixed(list(BASELINES), frozen=True))
MIXED_FROZEN += [Case("normal_first", "iwae", "leave-one-out", THREE, frozen=True)]
SCORED = [
    Case("normal_first", bound, baseline, mode, frozen, everywhere=True)
    for bound in BOUNDS
    for baseline, mode in (("moving average", ONE), ("leave-one-out", TWO))
    for frozen in (False, True)
]
