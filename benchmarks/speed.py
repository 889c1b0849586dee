"""What a step costs on each workload, beside the same mathematics by hand, in Pyro, in NumPyro.

One thread is pinned and judged by CPU time, which a busy neighbour hardly touches; then two by the
clock on the wall.  Each workload has a process of its own for each, in which all its contenders
take turns.  That they do the same mathematics is shown by a test, not here.
"""

import time
import warnings
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from benchmarks.apart import apart
from benchmarks.compare import compare, how
from benchmarks.contenders.runner import NotAvailable, Runner
from benchmarks.interleave import Interval, pinned
from benchmarks.report import Bars, Report, Settings, Target
from benchmarks.workloads import (
    COMPILED,
    COMPILERS,
    EAGER,
    HAND,
    NUMPYRO,
    WORKLOADS,
    Workload,
)

NAME = "speed"
_QUICK = ("W1", "W5a")


def run(settings: Settings) -> Report:
    """Time every workload's contenders."""
    report = Report(NAME, "a whole step: minibatch, forward, backward and Adam's update")
    names = settings.only or (_QUICK if settings.quick else tuple(WORKLOADS))
    if settings.device == "cuda":
        plan = [("device", settings.threads)]
    elif settings.quick:
        plan = [("cpu", settings.threads)]
    else:
        plan = [("cpu", settings.threads), ("wall", settings.wall_threads)]
    for clock, threads in plan:
        for name in names if threads else ():
            report.add(_measure(name, replace(settings, threads=threads), clock))
    return report


def _measure(name: str, settings: Settings, clock: str) -> Report:
    if settings.quick:
        with pinned(settings.threads):
            return measure(name, settings, clock)
    print(f"{name}, {settings.threads} threads ...", flush=True)
    return apart(measure, name, settings, clock, threads=settings.threads)


def measure(name: str, settings: Settings, clock: str) -> Report:
    """One workload, in a process that is held to its cores already."""
    workload = WORKLOADS[name]
    rounds = 3 if settings.quick else 40
    report = Report(NAME, workload.words)
    report.notes.append(how(settings, rounds))
    where = f"{name}: {workload.words}; {settings.threads} thread(s), by {clock} time"
    runners, facts = build(workload, settings, report)
    contenders = [runner.contender(name) for name, runner in runners.items()]
    against = (workload.rival, NUMPYRO, HAND)
    found = compare(
        report,
        settings,
        where,
        contenders,
        against=against,
        rounds=rounds,
        clock=clock,
        facts=facts,
        most_steps=2 if settings.quick else 1000,  # so that quick ones run as warm as in training
    )
    if workload.note:
        report.notes.append(f"{name}: {workload.note}")
    _judge(report, workload, found, where)
    seconds = {n: getattr(t, clock) * 1e3 for n, (t, _) in found.items()}
    report.panels.append(
        Bars(f"{where}: ms a step", list(found), [_spread(ms) for ms in seconds.values()])
    )
    return report


def build(
    workload: Workload, settings: Settings, report: Report, only: Collection[str] | None = None
) -> tuple[dict[str, Runner], dict[str, dict[str, float]]]:
    """The contenders that can take part, and the seconds that each took for its first three calls.

    Who cannot take part, and whatever was warned of, is added to the report's notes.

    Args:
        workload: the workload.
        settings: how to run.
        report: where to note it.
        only: contenders to build; all if None.
    """
    runners, facts = {}, {}
    for name, make in workload.contenders(settings.seed, settings.device).items():
        if only is not None and name not in only:
            continue
        if settings.quick and name in COMPILERS:
            report.notes.append(f"{workload.name}, {name}: left out of a quick run")
            continue
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                runner = make()
                with runner.around():
                    for _ in range(3):  # who compiles may record once, then again to be sure
                        runner.step()
                    runner.finish()
            except NotAvailable as why:
                report.notes.append(f"{workload.name}, {name}: not available: {why}")
                continue
            except Exception as error:  # one contender's fault must not cost the others' numbers
                first = (str(error).splitlines() or [""])[0]
                report.notes.append(
                    f"{workload.name}, {name}: FAILED with {type(error).__name__}: {first}"
                )
                continue
        runners[name] = runner
        facts[name] = {"seconds to build": time.perf_counter() - start}
        told = [w for w in warned if not issubclass(w.category, DeprecationWarning)]
        for message in dict.fromkeys(str(w.message).split("\n")[0] for w in told):
            report.notes.append(f"{workload.name}, {name} warned: {message}")
    return runners, facts


def _judge(report: Report, workload: Workload, found, where: str) -> None:
    others = (workload.rival, NUMPYRO, HAND)
    claims = [
        (COMPILED, other, limit) for other, limit in zip(others, workload.limits, strict=True)
    ]
    claims.append((EAGER, workload.rival, workload.eager_limit))
    for name, other, limit in claims:
        if limit is not None and {name, other} <= found.keys():
            what = f"{name} ÷ {other}: {where}"
            report.targets.append(Target(what, found[name][1][other], limit))


def _spread(milliseconds) -> Interval:
    low, middle, high = np.quantile(milliseconds, [0.25, 0.5, 0.75])
    return Interval(float(middle), float(low), float(high))
