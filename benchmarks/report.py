"""What a benchmark found: tables for people, targets met or missed, and JSON with all of it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.interleave import Interval


@dataclass(frozen=True)
class Settings:
    """How a benchmark is to be run.

    Attributes:
        quick: just enough to see that it runs.
        threads: torch's threads, each on a core of its own.
        seed: of the data, the parameters, the draws and the order of turns.
        wall_threads: as many again, by the clock on the wall; 0 to leave that out.
        device: ``"cpu"`` or ``"cuda"``.
        only: workloads to run; all if empty.
        seeds: how many seeds to run from, ``seed`` the first; 0 for the benchmark's own number.
    """

    quick: bool = False
    threads: int = 1
    seed: int = 0
    wall_threads: int = 2
    device: str = "cpu"
    only: Sequence[str] = ()
    seeds: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Target:
    """A claim ``found <= at_most``.

    Attributes:
        what: the claim in words.
        found: what was found, with its interval.
        at_most: the limit.
        within_error: whether it is enough that the interval reaches down to the limit.
        arithmetic: relative error of the arithmetic behind the numbers, which is granted them.
    """

    what: str
    found: Interval
    at_most: float
    within_error: bool = False
    arithmetic: float = 0.0

    @property
    def met(self) -> bool:
        """Whether the claim holds, by the numbers as they are, before they are shown."""
        found = self.found.low if self.within_error else self.found.value
        return found * (1 - self.arithmetic) <= self.at_most

    @property
    def verdict(self) -> str:
        """The verdict in words; says where the interval lies on both sides of the limit."""
        word = "met" if self.met else "MISSED"
        if self.within_error:
            return f"{word} (judged by the interval's lower end)"
        astride = self.found.low <= self.at_most < self.found.high
        return word + (" (the interval holds the limit)" if astride else "")


@dataclass(frozen=True)
class Bars:
    """One panel of the figure: values with intervals, and a limit (not drawn if None)."""

    title: str
    labels: Sequence[str]
    values: Sequence[Interval]
    limit: float | None = None


@dataclass(frozen=True)
class Lines:
    """One panel of the figure: lines through points, on logarithmic axes.

    Attributes:
        title: what is shown.
        across: what grows, in words.
        series: by label, the points' abscissae and ordinates.
        fits: labels of those that are fitted to the one before: dashed, in its colour.
    """

    title: str
    across: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    fits: Sequence[str] = ()


@dataclass(frozen=True)
class Points:
    """One panel of the figure: points of a plane in groups, some of them ringed.

    Attributes:
        title: what is shown.
        axes: what goes across and up, in words.
        groups: by label, the points' abscissae and ordinates.
        ringed: abscissae and ordinates of those that are marked.
    """

    title: str
    axes: tuple[str, str]
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    ringed: tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Densities:
    """One panel of the figure: densities over a square, side by side.

    Attributes:
        title: what is shown.
        reach: the square is from minus this to this, across and up.
        images: by label, the densities, a row for each place upwards.
    """

    title: str
    reach: float
    images: Mapping[str, Any]


@dataclass
class Report:
    """The result of a benchmark.

    Attributes:
        name: the benchmark's name.
        title: what it asks, in a sentence.
        notes: how it was measured.
        tables: what to print.
        targets: what was claimed.
        panels: what to draw.
        data: everything that was measured, in a form that JSON can hold.
        waited: largest share of the wall time in which a contender waited for its core.
        neighbours: largest share of the cores' time that went to other processes meanwhile.
    """

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    panels: list[Bars | Lines | Points | Densities] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    waited: float = 0.0
    neighbours: float = 0.0

    def add(self, other: "Report") -> None:
        """Take in what another report found."""
        self.notes += [note for note in other.notes if note not in self.notes]
        self.tables += other.tables
        self.targets += other.targets
        self.panels += other.panels
        self.data |= other.data
        self.waited = max(self.waited, other.waited)
        self.neighbours = max(self.neighbours, other.neighbours)


def at_least_shown(x: float, digits: int = 3) -> str:
    """A number for people, never smaller than it is: what has missed a limit is shown beyond it."""
    if not math.isfinite(x):
        return str(x)
    return f"{math.ceil(round(x * 10**digits, 3)) / 10**digits:.{digits}f}"


def shown(interval: Interval) -> str:
    """An estimate with its interval, for people."""
    ends = f"{interval.low:.3f} .. {interval.high:.3f}"
    return f"{at_least_shown(interval.value)} ({ends})"


def text(report: Report, settings: Settings) -> str:
    """The report as it is printed."""
    lines = [f"== {report.name}: {report.title}"]
    if settings.quick:
        lines.append("quick: to see that it runs; these numbers mean little")
    lines += report.notes
    if settings.threads == 1 and report.waited > 0.05:
        lines.append(
            f"up to {report.waited:.0%} of the wall time went by waiting for the core: a neighbour "
            "was busy, so go by the CPU time"
        )
    if report.neighbours > 0.05:
        lines.append(
            f"up to {report.neighbours:.0%} of the cores' time went to other processes: wall times "
            "are too long, and CPU times somewhat, where a core is shared by hyperthreads"
        )
    for table in report.tables:
        lines += ["", table.title, *_aligned(table)]
    if report.targets:
        columns = ("target", "at most", "found (95 % interval)", "")
        rows = [(t.what, f"{t.at_most:g}", shown(t.found), t.verdict) for t in report.targets]
        lines += ["", *_aligned(Table("", columns, rows))]
        met = sum(target.met for target in report.targets)
        lines.append(f"{met} of {len(report.targets)} targets met")
    return "\n".join(lines)


def save(report: Report, settings: Settings, machines: Sequence[Any], folder: Path) -> Path:
    """Write everything to ``<name>.json`` in the folder."""
    content = {
        "name": report.name,
        "title": report.title,
        "settings": asdict(settings),
        "machine_before_and_after": list(machines),
        "notes": report.notes,
        "waited_for_the_core_at_most": report.waited,
        "share_of_the_cores_that_went_to_others_at_most": report.neighbours,
        "tables": [asdict(table) for table in report.tables],
        "targets": [
            {**asdict(target), "met": target.met, "verdict": target.verdict}
            for target in report.targets
        ],
        "data": report.data,
    }
    path = folder / f"{report.name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _aligned(table: Table) -> list[str]:
    rows = [tuple(table.columns), *(tuple(row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
