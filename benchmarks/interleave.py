"""Time contenders in turn in one process, so that what slows the machine slows them all.

The contenders take turns block by block, a block being a few steps, in an order drawn anew for each
round.  Garbage is collected before a block and not within it.  A contender that only asks for its
work, as on a GPU or under JAX, is waited for at the end of a block and not of each step.  A
contender's time is the median over its blocks; two are compared by the ratio of their medians, with
a bootstrap interval over the rounds, in which both ran side by side.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        name: its name.
        step: one call of it, which makes ``steps`` steps.
        around: a context that is entered before each of its blocks, off the clock.
        every: it takes part in the first of every so many rounds; for one that is very slow.
        steps: steps that one call makes.
        finish: waits for what was only asked for; called at a block's end, on the clock.
    """

    name: str
    step: Callable[[], Any]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    every: int = 1
    steps: int = 1
    finish: Callable[[], Any] = int


@dataclass(frozen=True, eq=False)
class Timing:
    """Seconds a step, one number for each round that the contender took part in.

    Attributes:
        rounds: numbers of these rounds.
        cpu: time of the process, all its threads together.
        wall: time of the clock on the wall.
        steps: steps in a block.
        device: time between two events on the GPU; that of the wall where there is none.
    """

    rounds: np.ndarray
    cpu: np.ndarray
    wall: np.ndarray
    steps: int
    device: np.ndarray | None = None

    @property
    def waited(self) -> float:
        """Share of the wall time in which one thread did not run: large beside a busy neighbour."""
        return float(1 - np.median(self.cpu / self.wall))


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds 95 % of its bootstrap resamples."""

    value: float
    low: float
    high: float


def interleave(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seed: int,
    warm_up: int = 5,
    block_seconds: float = 0.03,
    most_steps: int = 20,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time the contenders in turn.

    Args:
        contenders: what to time.
        rounds: blocks of each.
        seed: of the order in which they take their turns.
        warm_up: calls of each beforehand.
        block_seconds: about how long a block is to last.
        most_steps: calls in a block at most.
        device: ``"cuda"`` to take the time between events on the GPU as well.

    Returns:
        The timings by name.
    """
    clock = _on_gpu if device == "cuda" else _block
    calls = {c.name: _warm_up(c, warm_up, block_seconds, most_steps) for c in contenders}
    blocks: dict[str, list[tuple[float, ...]]] = {c.name: [] for c in contenders}
    order = np.random.default_rng(seed)
    gc.collect()
    gc.freeze()  # what was there before need not be searched again at every block
    for number in range(rounds):
        for index in order.permutation(len(contenders)):
            contender = contenders[index]
            if number % contender.every:
                continue
            with contender.around(), _no_garbage():
                took = clock(contender, calls[contender.name])
            blocks[contender.name].append((number, *took))
    gc.unfreeze()
    timings = {}
    for contender in contenders:
        steps = calls[contender.name] * contender.steps
        numbers, cpu, wall, *rest = map(np.array, zip(*blocks[contender.name], strict=True))
        events = rest[0] / steps if rest else None
        timings[contender.name] = Timing(
            numbers.astype(int), cpu / steps, wall / steps, steps, events
        )
    return timings


def median_of_ratios(
    ours: Timing, theirs: Timing, clock: str, *, seed: int, resamples: int = 4000
) -> Interval:
    """Median of the ratios round by round; steadier where the machine's speed drifts.

    The arguments are those of :func:`ratio_of_medians`.
    """
    ratios = np.divide(*_in_common(ours, theirs, clock))
    rows = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
    return Interval(float(np.median(ratios)), float(low), float(high))


def ratio_of_medians(
    ours: Timing, theirs: Timing, clock: str, *, seed: int, resamples: int = 4000
) -> Interval:
    """Ratio of two contenders' medians over the rounds that both took part in.

    Args:
        ours: the numerator.
        theirs: the denominator.
        clock: ``"cpu"``, ``"wall"`` or ``"device"``.
        seed: of the bootstrap, which resamples whole rounds.
        resamples: of the bootstrap.
    """
    above, below = _in_common(ours, theirs, clock)
    rows = np.random.default_rng(seed).integers(len(above), size=(resamples, len(above)))
    ratios = np.median(above[rows], axis=1) / np.median(below[rows], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(np.median(above) / np.median(below)), float(low), float(high))


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """As many torch threads, on as many cores of their own where the system can hold them there."""
    before = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, sorted(cores)[-threads:])
        yield
    finally:
        torch.set_num_threads(before)
        if cores is not None:
            os.sched_setaffinity(0, cores)


def _in_common(ours: Timing, theirs: Timing, clock: str) -> tuple[np.ndarray, np.ndarray]:
    """The times of both in the rounds that both took part in."""
    _, mine, other = np.intersect1d(ours.rounds, theirs.rounds, return_indices=True)
    return getattr(ours, clock)[mine], getattr(theirs, clock)[other]


def _warm_up(contender: Contender, calls: int, block_seconds: float, most: int) -> int:
    """Call it a few times; how many of its calls make a block."""
    took = []
    with contender.around():
        for _ in range(calls):
            took.append(_block(contender, 1)[0])
    return int(np.clip(block_seconds / max(float(np.median(took)), 1e-9), 1, most))


def _block(contender: Contender, calls: int) -> tuple[float, ...]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        contender.step()
    contender.finish()
    return time.process_time() - cpu, time.perf_counter() - wall


def _on_gpu(contender: Contender, calls: int) -> tuple[float, ...]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    cpu, wall = _block(contender, calls)
    end.record()
    torch.cuda.synchronize()
    return cpu, wall, start.elapsed_time(end) / 1e3


@contextmanager
def _no_garbage() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
