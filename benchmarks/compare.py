"""Contenders timed in turn, as a table of medians with their spread and of ratios."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyro.infer import ELBO

from benchmarks.contenders.in_pyro import Stepwise
from benchmarks.interleave import (
    Contender,
    Interval,
    Timing,
    interleave,
    median_of_ratios,
    ratio_of_medians,
)
from benchmarks.machine import Neighbours
from benchmarks.problem import Make
from benchmarks.report import Report, Settings, Table, shown

Losses = Mapping[str, type[ELBO]]


def compare(
    report: Report,
    settings: Settings,
    where: str,
    contenders: Sequence[Contender],
    *,
    against: Sequence[str],
    rounds: int,
    clock: str = "cpu",
    facts: Mapping[str, Mapping[str, float]] | None = None,
    most_steps: int = 20,
) -> dict[str, tuple[Timing, dict[str, Interval]]]:
    """Time contenders in turn, and add what was found to the report.

    Args:
        report: where to add the table and the data.
        settings: how to run.
        where: what was run, in words.
        contenders: what to time.
        against: contenders that the others are divided by; those that are not there are left out.
        rounds: blocks of each contender.
        clock: the clock that counts: ``"cpu"``, ``"wall"`` or ``"device"``.
        most_steps: calls in a block at most.
        facts: by contender, other numbers to write down (seconds that building it took).

    Returns:
        By contender, its timing and the ratios of its time to the others'.
    """
    with Neighbours() as neighbours:
        timings = interleave(
            contenders,
            rounds=rounds,
            seed=settings.seed,
            most_steps=most_steps,
            device=settings.device,
        )
    report.waited = max(report.waited, *(timing.waited for timing in timings.values()))
    report.neighbours = max(report.neighbours, neighbours.share)
    against = [name for name in against if name in timings]
    result, rows = {}, []
    found = report.data.setdefault(where, {})
    for name, timing in timings.items():
        ratios, cells, data = {}, [], {}
        for other in against:
            ratios[other] = ratio_of_medians(timing, timings[other], clock, seed=settings.seed)
            paired = median_of_ratios(timing, timings[other], clock, seed=settings.seed)
            cells.append(shown(ratios[other]))
            data[f"{clock}_ratio_to_{other}"] = vars(ratios[other])
            data[f"{clock}_ratio_to_{other}_round_by_round"] = vars(paired)
        result[name] = (timing, ratios)
        more = (facts or {}).get(name, {})
        rows.append(
            (
                name,
                *_spread(timing.cpu),
                *_spread(timing.wall),
                *(_spread(timing.device) if timing.device is not None else ()),
                *cells,
                *(f"{value:.1f}" for value in more.values()),
            )
        )
        found[name] = {
            "rounds": timing.rounds.tolist(),
            "cpu_seconds_a_step": timing.cpu.tolist(),
            "wall_seconds_a_step": timing.wall.tolist(),
            "device_seconds_a_step": None if timing.device is None else timing.device.tolist(),
            "steps_in_a_block": timing.steps,
            **data,
            **more,
        }
    found["share_of_the_cores_that_went_to_others"] = neighbours.share
    clocks = ("CPU", "wall", "device") if settings.device == "cuda" else ("CPU", "wall")
    columns = ("", *(cell for name in clocks for cell in (f"{name} ms", "quartiles")))
    columns = (*columns, *(f"{clock} ÷ {name}" for name in against))
    report.tables.append(Table(where, (*columns, *next(iter((facts or {}).values()), {})), rows))
    return result


def time_losses(
    report: Report,
    settings: Settings,
    workload: str,
    make: Make,
    losses: Losses,
    *,
    validation: bool,
    rounds: int,
    against: str,
    every: Mapping[str, int] | None = None,
) -> dict[str, tuple[Timing, Interval]]:
    """Time one program under each loss in turn, and add what was found to the report.

    Args:
        report: where to add the table and the data.
        settings: how to run.
        workload: the program in words.
        make: builds the program.
        losses: the contenders.
        validation: whether Pyro validates.
        rounds: blocks of each contender.
        against: the contender that the others are divided by.
        every: contenders that take part in every so many rounds only.

    Returns:
        By contender, its timing and the ratio of its CPU time to the other's.
    """
    contenders = [
        Stepwise(make, loss(), validation=validation, seed=settings.seed).contender(
            name, every=(every or {}).get(name, 1)
        )
        for name, loss in losses.items()
    ]
    where = f"{workload}, validation {'on' if validation else 'off'}"
    found = compare(report, settings, where, contenders, against=[against], rounds=rounds)
    return {name: (timing, ratios[against]) for name, (timing, ratios) in found.items()}


def how(settings: Settings, rounds: int) -> str:
    """How the steps were timed, in words."""
    return (
        f"{settings.threads} thread{'s' if settings.threads > 1 else ''}, held on as many "
        f"cores; float32; {rounds} rounds, contenders in turn, blocks of a few steps; medians and "
        "quartiles over rounds; ratios of medians with a 95 % bootstrap interval; garbage "
        f"collected between blocks only; seed {settings.seed}"
    )


def _spread(seconds: Any) -> tuple[str, str]:
    low, middle, high = np.quantile(seconds * 1e3, [0.25, 0.5, 0.75])
    return f"{middle:.3f}", f"{low:.3f} .. {high:.3f}"
