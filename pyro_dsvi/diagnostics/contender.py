"""An objective whose gradients are being measured, step by step."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.budget import Budget, Draws
from pyro_dsvi.diagnostics.certificate import Certificate, compare
from pyro_dsvi.diagnostics.comparison import Measurement, Quality, quality_of
from pyro_dsvi.diagnostics.estimates import every_step, step
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.memory import memory_of
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Found
from pyro_dsvi.diagnostics.tally import Spread, Tally, exact_moments
from pyro_dsvi.diagnostics.undisturbed import random_state, set_random_state

FEWEST_STEPS = 32
WARM_UP = 20  # steps in which a moving average finds its place
_ROUNDS = 8  # turns of each objective
_EXACT_LEVELS = 8  # points of the exact error by samples


@dataclass(eq=False)
class Contender:
    """An objective at work."""

    name: str
    tested: Any
    programs: Programs
    bound: Bound
    reference: Gradient | None = None
    exact: list[tuple[float, list[Tensor]]] = field(default_factory=list)
    tally: Tally | None = None
    seconds: list[float] = field(default_factory=list)
    memory: float = math.nan
    random: Any = None

    @property
    def particles(self) -> int:
        return getattr(self.tested, "num_particles", 1)

    def prepare(self, found: Found, budget: Budget, seed: int) -> None:
        """Warm up; visit every draw if these are few; else be ready to take turns."""
        self.reference = found.gradient
        pyro.set_rng_seed(seed)
        for _ in range(WARM_UP):
            step(self.tested, self.programs)
        self.memory = memory_of(lambda: step(self.tested, self.programs), self.tested)
        if found.gradient.exact and len(found.draws) ** self.particles <= budget.draws:
            self.exact = self._visit(found)
        if self.exact:
            for _ in range(FEWEST_STEPS):
                self._timed()
        else:
            self.tally = Tally(list(self.programs.parameters), found.gradient)
            pyro.set_rng_seed(seed)
            self.random = random_state()

    def turn(self, steps: int, seconds: float) -> None:
        """So many steps, or as many as the time allows."""
        assert self.tally is not None  # as prepared
        set_random_state(self.random)
        end = time.perf_counter() + seconds
        for done in range(steps):
            self.tally.add(self._timed())
            if done >= FEWEST_STEPS // _ROUNDS and time.perf_counter() > end:
                break
        self.random = random_state()

    def _timed(self) -> list[Tensor]:
        _wait()
        began = time.perf_counter()
        gradients = step(self.tested, self.programs)
        _wait()
        self.seconds.append(time.perf_counter() - began)
        return gradients

    def _visit(self, found: Found) -> list[tuple[float, list[Tensor]]]:
        visited = []
        for weight, gradient in every_step(self.tested, self.programs, found.draws, self.particles):
            if weight is None:
                return []
            visited.append((weight, gradient))
        return visited

    def measurement(self, sites: Mapping[str, Sequence[str]], level: float) -> Measurement:
        """What came of it."""
        names = list(self.programs.parameters)
        estimate, spreads = self._moments(names)
        assert self.reference is not None  # as prepared
        told = f"{self.bound!r}, {self.particles} particle{'s' * (self.particles != 1)}"
        certificate = compare(estimate, self.reference, bound=told, level=level)
        rows = [self._row(name, certificate, spreads) for name in (None, *names)]
        by_site = {
            site: sum(spreads[name].value for name in owned) for site, owned in sites.items()
        }
        steps = len(self.exact) or (self.tally.moments.count if self.tally else 0)
        return Measurement(
            self.name, rows[0], tuple(rows[1:]), by_site, certificate, steps, bool(self.exact)
        )

    def _moments(self, names: list[str]) -> tuple[Gradient, dict[str | None, Spread]]:
        if self.tally is not None:
            spreads: dict[str | None, Spread] = {n: self.tally.spread([n]) for n in names}
            spreads[None] = self.tally.spread()
            return self.tally.moments.gradient(f"mean of {self.tally.moments.count} steps"), spreads
        assert self.reference is not None  # as prepared
        mean, variance = exact_moments(self.exact, names)
        zero = {name: torch.zeros_like(m) for name, m in mean.items()}
        how = f"every joint draw visited ({len(self.exact)}), weighted by its probability"
        within = {name: self.reference.rounding[name].cpu() for name in names}
        total = sum(variance.values())
        spreads = {name: Spread(v, v, v) for name, v in variance.items()}
        spreads[None] = Spread(total, total, total)
        return Gradient(mean, zero, within, how, exact=True), spreads

    def _row(
        self, name: str | None, certificate: Certificate, spreads: Mapping[str | None, Spread]
    ) -> Quality:
        if self.tally is not None:
            errors, steps = self.tally.errors(name), self.tally.moments.count
        else:
            errors, steps = _exact_errors(certificate, name, spreads[name].value), 0
        return quality_of(
            self.name,
            name,
            certificate,
            spreads[name],
            errors,
            steps=steps,
            particles=self.particles,
            seconds=float(np.median(self.seconds)),
            memory=self.memory,
        )


def take_turns(contenders: Sequence[Contender], budget: Budget) -> None:
    """Spend the budget of each, a block of steps in turn."""
    for _ in range(_ROUNDS):
        for contender in contenders:
            if isinstance(budget, Draws):
                steps = max(FEWEST_STEPS, math.ceil(budget.number / contender.particles))
                contender.turn(math.ceil(steps / _ROUNDS), math.inf)
            else:
                contender.turn(10**9, budget.number / _ROUNDS)


def _exact_errors(
    certificate: Certificate, name: str | None, variance: float
) -> list[tuple[int, float, int]]:
    rows = [row for row in certificate.rows if name in (None, row.parameter)]
    bias = [(row.z != 0) * (row.mean - row.reference) for row in rows]  # beyond rounding
    square = sum(float(b.square().sum()) for b in bias)
    found = [(2**j, math.sqrt(variance / 2**j + square), 1) for j in range(_EXACT_LEVELS)]
    return [point for point in found if point[1] > 0]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
