"""How time and memory grow: with particles, with rows of data, with sites, with steps a call.

Times of all contenders at all sizes are taken in turn in one process for each axis.  A peak of
memory belongs to a process, so it is taken in a fresh one for each contender at the first and the
last size: what resident memory rose to, during steps, above what it was before the contender was
built (on a GPU: what torch had allocated at most).
"""

import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import RenyiELBO, Trace_ELBO

import pyro_dsvi as dsvi
from benchmarks.apart import apart, resident
from benchmarks.compare import compare, how
from benchmarks.contenders.in_numpyro import Jitted
from benchmarks.contenders.runner import NotAvailable
from benchmarks.interleave import Interval, pinned
from benchmarks.programs.logistic_regression import LogisticRegression
from benchmarks.programs.many_sites import ManySites
from benchmarks.programs.vae import VAE
from benchmarks.report import Lines, Report, Settings, Table, Target
from benchmarks.speed import build
from benchmarks.workloads import (
    COMPILED,
    EAGER,
    HAND,
    NUMPYRO,
    NUMPYRO_SCAN,
    UNROLLED,
    WORKLOADS,
    Workload,
)

NAME = "growth"
PYRO = "Pyro"
FLAT = 1.2
MEMORY = 1.25
_MIB = 2**20


def _particles(size: int) -> Workload:
    options: dict[str, Any] = {"vectorize_particles": True, "max_plate_nesting": 1}
    renyi = partial(RenyiELBO, alpha=0, num_particles=size, **options)
    return Workload(
        "particles",
        "VAE 784-400-20, batch 128, IWAE",
        lambda seed: VAE(seed, bound="iwae"),
        {PYRO: renyi if size > 1 else Trace_ELBO},  # RenyiELBO wants two
        partial(dsvi.IWAE, size),
        "RenyiELBO",
        particles=size,
    )


def _rows(size: int) -> Workload:
    words = "logistic regression, 30 features, minibatch 64, K=1"
    problem = partial(LogisticRegression, rows=size)
    return Workload("rows", words, problem, {PYRO: Trace_ELBO}, dsvi.PathwiseELBO, "Trace_ELBO")


def _sites(size: int) -> Workload:
    problem = partial(ManySites, sites=size)
    return Workload(
        "sites",
        "latents with an observation each",
        problem,
        {PYRO: Trace_ELBO},
        dsvi.PathwiseELBO,
        "Trace_ELBO",
    )


def _steps(size: int) -> Workload:
    return replace(WORKLOADS["W1"], name="steps", unrolled=size)


_STEPWISE = (HAND, PYRO, NUMPYRO, EAGER, COMPILED)


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
        name: what.
        sizes: how far.
        quick: sizes that show that it runs.
        workload: the workload of a size.
        contenders: who takes part.
        rounds: blocks of each.
        on_gpu: sizes there, if others.
    """

    name: str
    sizes: Sequence[int]
    quick: Sequence[int]
    workload: Callable[[int], Workload]
    contenders: Sequence[str] = _STEPWISE
    rounds: int = 30
    on_gpu: Sequence[int] = ()


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "particles", (1, 8, 64, 512), (1, 2), _particles, rounds=8, on_gpu=(1, 8, 64, 512, 4096)
        ),
        Axis("rows", (1_000, 10_000, 100_000, 1_000_000), (1_000, 2_000), _rows),
        Axis("sites", (1, 10, 50, 200), (1, 3), _sites, rounds=15),
        Axis("steps", (1, 4, 16, 64, 256), (1, 4), _steps, (NUMPYRO_SCAN, UNROLLED)),
    )
}


def run(settings: Settings) -> Report:
    """Measure along every axis."""
    report = Report(NAME, "time a step and peak memory, as a problem or a call grows")
    clock = "device" if settings.device == "cuda" else "cpu"
    for name in settings.only or AXES:
        if settings.quick:
            with pinned(settings.threads):
                report.add(times(name, settings, clock))
            continue
        print(f"{name}, times ...", flush=True)
        report.add(apart(times, name, settings, clock, threads=settings.threads))
        _memory(report, AXES[name], settings)
    return report


def _sizes(axis: Axis, settings: Settings) -> Sequence[int]:
    if settings.quick:
        return axis.quick
    return axis.on_gpu if settings.device == "cuda" and axis.on_gpu else axis.sizes


def times(name: str, settings: Settings, clock: str) -> Report:
    """Time every contender at every size, in a process that is held to its cores already."""
    axis, report = AXES[name], Report(NAME, name)
    sizes, rounds = _sizes(axis, settings), 2 if settings.quick else axis.rounds
    report.notes.append(how(settings, rounds))
    contenders, where, facts = [], "", {}
    for size in sizes:
        workload = axis.workload(size)
        where = f"{name}: {workload.words}"
        runners, built = build(workload, settings, report, only=axis.contenders)
        for who, runner in runners.items():
            contenders.append(runner.contender(_at(who, size)))
            facts[_at(who, size)] = built[who]
    if not contenders:
        return report
    first = [_at(who, sizes[0]) for who in axis.contenders]
    found = compare(
        report,
        settings,
        where,
        contenders,
        against=first if name == "rows" else (),
        rounds=rounds,
        clock=clock,
        facts=facts,
    )
    series = {}
    for who in axis.contenders:
        there = [size for size in sizes if _at(who, size) in found]
        if there:
            medians = [np.median(getattr(found[_at(who, s)][0], clock)) * 1e3 for s in there]
            series[who] = (there, [float(median) for median in medians])
    report.panels.append(Lines(f"{where}: {clock} ms a step", name, series))
    small, large = _at(COMPILED, sizes[0]), _at(COMPILED, sizes[-1])
    if name == "rows" and {small, large} <= found.keys():
        what = f"{COMPILED}: a step at N={sizes[-1]} ÷ at N={sizes[0]}, minibatch 64"
        report.targets.append(Target(what, found[large][1][small], FLAT))
    return report


def _at(who: str, size: int) -> str:
    return f"{who} @ {size}"


def _memory(report: Report, axis: Axis, settings: Settings) -> None:
    sizes = _sizes(axis, settings)
    peaks: dict[str, dict[int, float]] = {}
    for who in axis.contenders:
        for size in (sizes[0], sizes[-1]):
            print(f"{axis.name}, memory of {who} at {size} ...", flush=True)
            found = apart(peak, axis.name, who, size, settings, threads=settings.threads)
            if found is not None:
                peaks.setdefault(who, {})[size] = found
    rows = [
        (who, *(f"{by_size[s]:.1f}" if s in by_size else "-" for s in (sizes[0], sizes[-1])))
        for who, by_size in peaks.items()
    ]
    title = f"{axis.name}: peak of memory during steps, MiB above what was there before"
    report.tables.append(Table(title, ("", *(f"@ {s}" for s in (sizes[0], sizes[-1]))), rows))
    report.data[f"{axis.name}, peak MiB"] = peaks
    for who in (EAGER, COMPILED):
        ours, theirs = (peaks.get(w, {}).get(sizes[-1]) for w in (who, PYRO))
        if axis.name == "particles" and ours is not None and theirs is not None:
            ratio = ours / theirs
            what = f"{who}: peak memory ÷ Pyro's, IWAE with K={sizes[-1]}"
            report.targets.append(Target(what, Interval(ratio, ratio, ratio), MEMORY))


def peak(axis: str, who: str, size: int, settings: Settings) -> float | None:
    """Peak memory of a few steps in MiB; None if the contender cannot take part.

    To be called in a process of its own.
    """
    workload, report = AXES[axis].workload(size), Report(NAME, axis)
    _load_libraries(who)
    before = resident("VmRSS")
    runner = build(workload, settings, report, only=(who,))[0].get(who)
    if runner is None:
        return None
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        _forget_peak()
    with runner.around():
        for _ in range(2):
            runner.step()
        runner.finish()
    if settings.device == "cuda":
        return torch.cuda.max_memory_allocated() / _MIB
    return resident("VmHWM") - before


def _load_libraries(who: str) -> None:
    """Load what loads itself upon first use, since its size is nobody's growth."""
    importlib.import_module("torch._inductor.compile_fx")
    if who in (NUMPYRO, NUMPYRO_SCAN):
        with suppress(NotAvailable):
            Jitted.libraries()


def _forget_peak() -> None:
    """From here on, the peak counts anew (where the kernel lets us; building counts otherwise)."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
