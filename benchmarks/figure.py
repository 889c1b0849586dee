"""A report's panels as a figure, where matplotlib is there."""

import math
from pathlib import Path
from typing import Any

from benchmarks.report import Bars, Densities, Lines, Points, Report, at_least_shown

ABREAST = 4  # densities


def draw(report: Report, folder: Path) -> Path | None:
    """Draw ``<name>.png``; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    heights = [_height(panel) for panel in report.panels]
    figure = Figure(figsize=(9, 0.8 + sum(heights)))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], report.panels, strict=True):
        axes.set_title(panel.title, fontsize="medium", loc="left")
        if isinstance(panel, Bars):
            _bars(axes, panel)
        elif isinstance(panel, Points):
            _points(axes, panel)
        elif isinstance(panel, Densities):
            _densities(axes, panel)
        else:
            _lines(axes, panel)
    figure.tight_layout()
    path = folder / f"{report.name}.png"
    figure.savefig(path, dpi=150)
    return path


def _height(panel: Bars | Lines | Points | Densities) -> float:
    if isinstance(panel, Densities):
        return 0.4 + 2.6 * math.ceil(len(panel.images) / ABREAST)
    if isinstance(panel, Bars):
        return 0.7 + 0.3 * len(panel.labels)
    return 5.0 if isinstance(panel, Points) else 3.5


def _bars(axes: Any, panel: Bars) -> None:
    values = [interval.value for interval in panel.values]
    below = [max(0.0, interval.value - interval.low) for interval in panel.values]
    above = [max(0.0, interval.high - interval.value) for interval in panel.values]
    bars = axes.barh(panel.labels, values, xerr=[below, above], color="0.7", ecolor="0.2")
    axes.bar_label(bars, [at_least_shown(value) for value in values], padding=4)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    if panel.limit is not None:
        axes.axvline(panel.limit, color="tab:red", linewidth=1)


def _lines(axes: Any, panel: Lines) -> None:
    number = 0
    for label, (xs, ys) in panel.series.items():
        if label in panel.fits:
            colour = axes.lines[-1].get_color()
            axes.plot(xs, ys, linestyle="--", linewidth=1, color=colour, label=label)
            continue
        marker = "osv^Dx+*"[number % 8]
        width = 0 if panel.fits else 1
        axes.plot(xs, ys, marker=marker, markersize=4, linewidth=width, label=label)
        number += 1
    axes.set(xscale="log", yscale="log", xlabel=panel.across)
    axes.legend(fontsize="x-small", ncols=2)


def _points(axes: Any, panel: Points) -> None:
    for number, (label, (xs, ys)) in enumerate(panel.groups.items()):
        axes.scatter(xs, ys, s=14, marker="x.+1"[number % 4], linewidths=0.8, label=label)
    ring = {"s": 120, "facecolors": "none", "edgecolors": "black", "linewidths": 1.6}
    axes.scatter(*panel.ringed, **ring, label="kept")
    axes.set(xlabel=panel.axes[0], ylabel=panel.axes[1])
    axes.legend(fontsize="x-small")


def _densities(axes: Any, panel: Densities) -> None:
    axes.axis("off")
    down = math.ceil(len(panel.images) / ABREAST)
    ends = (-panel.reach, panel.reach)
    for number, (label, image) in enumerate(panel.images.items()):
        row, column = divmod(number, ABREAST)
        place = (column / ABREAST, 1 - (row + 1) / down, 0.95 / ABREAST, 0.78 / down)
        inset = axes.inset_axes(place)
        inset.imshow(image, origin="lower", extent=(*ends, *ends), cmap="magma")
        inset.set_title(label, fontsize="x-small")
        inset.tick_params(labelsize="xx-small")
