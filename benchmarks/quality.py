"""Seconds until the bound is within a nat of its best, by estimator: a cheap step may be noisy.

Every estimator trains the same program from the same parameters with the same optimizer, and gets
the same CPU time.  At times that grow geometrically its bound is judged, off the clock, with many
draws on all data.  Two marks are looked at: its own best, and the best that any estimator of the
same bound came to.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO

import pyro_dsvi as dsvi
from benchmarks.apart import apart
from benchmarks.contenders.in_pyro import Compiled, Stepwise
from benchmarks.contenders.runner import NotAvailable
from benchmarks.interleave import pinned
from benchmarks.problem import Problem
from benchmarks.programs.bits import DECAY, Bits
from benchmarks.programs.eight_schools import EightSchools
from benchmarks.programs.logistic_regression import LogisticRegression
from benchmarks.report import Lines, Report, Settings, Table

NAME = "quality"
_JUDGED = 24  # times along the way
_BUILDING = 3  # steps off the clock: compilers record, libraries load themselves
_LOO, _MEAN = dsvi.baselines.LeaveOneOut, partial(dsvi.baselines.MovingAverage, DECAY)


@dataclass(frozen=True)
class Race:
    """Estimators on one problem.

    Attributes:
        words: the problem.
        train: the problem that steps are made on, given a seed.
        judge: the same with all data at once.
        losses: the estimators, by name.
        iwae: those that raise an importance-weighted bound, and its particles.
        rate: Adam's step size.
        seconds: CPU time for each.
        draws: draws at each judgement.
        data: what the bound is divided by, so that a nat is a nat for each of these.
    """

    words: str
    train: Callable[[int], Problem]
    judge: Callable[[int], Problem]
    losses: Mapping[str, Callable[[], ELBO]]
    iwae: Mapping[str, int]
    rate: float
    seconds: float
    draws: int
    data: int = 1

    def particles(self, who: str) -> int:
        """Particles of the bound that an estimator raises; 1 for the evidence."""
        return self.iwae.get(who.removesuffix(", compiled"), 1)


_REPARAMETERISED: dict[str, Callable[[], ELBO]] = {
    "Pyro Trace, K=1": Trace_ELBO,
    "pathwise, K=1": dsvi.PathwiseELBO,
    "pathwise, K=8": partial(dsvi.PathwiseELBO, num_particles=8),
    "sticking the landing, K=1": dsvi.STL,
    "score function, K=8": partial(dsvi.ScoreFunctionELBO, num_particles=8),
    "score function, running mean, K=8": lambda: dsvi.ScoreFunctionELBO(_MEAN(), num_particles=8),
    "score function, leave-one-out, K=8": lambda: dsvi.ScoreFunctionELBO(_LOO(), num_particles=8),
}
RACES: dict[str, Race] = {
    "W1": Race(
        "eight schools",
        EightSchools,
        EightSchools,
        _REPARAMETERISED,
        {},
        rate=0.01,
        seconds=8.0,
        draws=4000,
    ),
    "W2a": Race(
        "logistic regression, minibatch 64",
        LogisticRegression,
        lambda seed: LogisticRegression(seed, minibatch=569),
        _REPARAMETERISED,
        {},
        rate=0.01,
        seconds=8.0,
        draws=1000,
    ),
    "W5": Race(
        "200 Bernoulli latents, 64 images",
        Bits,
        Bits,
        {
            "Pyro TraceGraph, running mean, K=1": TraceGraph_ELBO,
            "score function, K=1": dsvi.ScoreFunctionELBO,
            "score function, running mean, K=1": lambda: dsvi.ScoreFunctionELBO(_MEAN()),
            "score function, leave-one-out, K=2": lambda: dsvi.ScoreFunctionELBO(
                _LOO(), num_particles=2
            ),
            "score function, leave-one-out, K=8": lambda: dsvi.ScoreFunctionELBO(
                _LOO(), num_particles=8
            ),
            "Pyro Renyi, K=8": partial(
                RenyiELBO, 0, num_particles=8, vectorize_particles=True, max_plate_nesting=1
            ),
            "VIMCO, K=8": partial(dsvi.VIMCO, 8),
        },
        {"Pyro Renyi, K=8": 8, "VIMCO, K=8": 8},
        rate=3e-3,
        seconds=20.0,
        draws=40,
        data=64,
    ),
}


def run(settings: Settings) -> Report:
    """Run every race, with three seeds each."""
    report = Report(NAME, "CPU seconds until the bound is within 1 nat of its best")
    report.notes.append(
        f"{settings.threads} pinned thread(s), CPU time of steps alone, building left out; Pyro's "
        "Adam; the bound is that which the estimator raises; 1 nat of the whole bound, in W5 of "
        "that of an image; median of three seeds and their range"
    )
    for name in settings.only or (("W1",) if settings.quick else tuple(RACES)):
        if settings.quick:
            with pinned(settings.threads):
                seen = {0: race(name, settings)}
        else:
            seen = {}
            for seed in range(settings.seed, settings.seed + 3):
                print(f"{name}, seed {seed} ...", flush=True)
                here = Settings(threads=settings.threads, seed=seed)
                seen[seed] = apart(race, name, here, threads=settings.threads)
        _tell(report, name, seen)
    return report


Course = tuple[list[float], list[float], int]  # seconds, bounds at them, steps made


def race(name: str, settings: Settings) -> dict[str, Course | str]:
    """Train every estimator; its course, or why it did not take part."""
    it = RACES[name]
    problem, judge = it.train(settings.seed), it.judge(settings.seed)
    budget = 0.2 if settings.quick else it.seconds
    marks = np.geomspace(budget / 100, budget, 4 if settings.quick else _JUDGED)
    entrants: dict[str, Stepwise] = {}
    courses: dict[str, Course | str] = {}
    compiled = [] if settings.quick else _compiled(it.losses)  # compiling alone takes minutes
    for who, loss in [*it.losses.items(), *compiled]:
        kind = Compiled if who.endswith(", compiled") else Stepwise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                entrants[who] = kind(problem.in_pyro, loss(), seed=settings.seed, rate=it.rate)
                with entrants[who].around():
                    entrants[who].losses(1)  # whatever is found out once, is found out here
                    for _ in range(_BUILDING):
                        entrants[who].step()
            except NotAvailable as why:
                courses[who] = str(why)
    other = {}
    for who, runner in entrants.items():
        with runner.around():
            # a model that is trained has to be judged as it is
            other[who] = runner.program if it.judge is it.train else judge.in_pyro()
        courses[who] = ([], [], 0)
    spent = dict.fromkeys(entrants, 0.0)
    for mark in marks:
        for who, runner in entrants.items():
            seconds, bounds, steps = courses[who]
            with runner.around():
                began = time.process_time()
                while spent[who] + time.process_time() - began < mark:
                    runner.step()
                    steps += 1
                spent[who] += time.process_time() - began
                number = 50 if settings.quick else it.draws
                bound = _bound(runner, other[who], it.particles(who), number) / it.data
            courses[who] = ([*seconds, spent[who]], [*bounds, bound], steps)
    return courses


def _compiled(losses: Mapping[str, Callable[[], ELBO]]):
    ours = [(who, loss) for who, loss in losses.items() if not who.startswith("Pyro")]
    return [(f"{who}, compiled", loss) for who, loss in ours]


def _bound(runner: Stepwise, judge, particles: int, draws: int) -> float:
    """The bound at the runner's present parameters, averaged over draws."""
    at_once = particles if particles > 1 else min(draws, 100)
    kind = partial(RenyiELBO, 0) if particles > 1 else Trace_ELBO
    loss = kind(num_particles=at_once, vectorize_particles=True, max_plate_nesting=1)
    with pyro.poutine.block():
        losses = [
            loss.loss(judge.model, runner.program.guide, *judge.args)
            for _ in range(max(1, draws // at_once))
        ]
    return -float(np.mean(losses))


def reached(course: Course, mark: float) -> float:
    """Seconds until the bound is at the mark; infinite if it never was."""
    seconds, bounds, _ = course
    return next((s for s, b in zip(seconds, bounds, strict=True) if b >= mark), float("inf"))


def _tell(report: Report, name: str, seen: Mapping[int, Mapping[str, Course | str]]) -> None:
    it = RACES[name]
    rows, series = [], {}
    for who in next(iter(seen.values())):
        runs = {seed: courses[who] for seed, courses in seen.items()}
        missing = next((run for run in runs.values() if isinstance(run, str)), None)
        if missing is not None:
            report.notes.append(f"{name}, {who}: not available: {missing}")
            continue
        rivals = _same_bound(it, who)
        found: list[tuple[float, float, float, int]] = []
        for seed, course in runs.items():
            assert not isinstance(course, str)
            best = max(course[1])
            others = [c for n, c in seen[seed].items() if n in rivals and not isinstance(c, str)]
            common = max(max(c[1]) for c in others)
            found.append((best, reached(course, best - 1), reached(course, common - 1), course[2]))
            series.setdefault(who, (course[0], course[1]))
        best, own, common, steps = zip(*found, strict=True)
        cells = (_middle(best, 2), f"{int(np.median(steps))}", _middle(own), _middle(common))
        rows.append((who, *cells))
    columns = ("", "best bound (nats)", "steps", "s to its best - 1", "s to the best of all - 1")
    report.tables.append(Table(f"{name}: {it.words}", columns, rows))
    report.data[name] = {str(seed): dict(courses) for seed, courses in seen.items()}
    top = max(max(bounds) for _, bounds in series.values())
    gaps = {
        who: (seconds, [top - bound + 0.1 for bound in bounds])
        for who, (seconds, bounds) in series.items()
    }
    title = f"{name}: {it.words}: nats below the best, plus 0.1"
    report.panels.append(Lines(title, "CPU seconds", gaps))


def _same_bound(it: Race, who: str) -> set[str]:
    names = [*it.losses, *(n for n, _ in _compiled(it.losses))]
    return {name for name in names if it.particles(name) == it.particles(who)}


def _middle(values, digits: int = 3) -> str:
    low, middle, high = min(values), float(np.median(values)), max(values)
    if not np.isfinite(middle):
        return "not reached"
    return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"
