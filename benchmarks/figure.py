"""A report's panels as a figure, where matplotlib is there."""

from pathlib import Path

from benchmarks.report import Report, at_least_shown


def draw(report: Report, folder: Path) -> Path | None:
    """Draw ``<name>.png``; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    count = len(report.panels)
    figure = Figure(figsize=(9, 0.8 + sum(0.7 + 0.3 * len(p.labels) for p in report.panels)))
    FigureCanvasAgg(figure)
    heights = [1 + len(panel.labels) for panel in report.panels]
    grid = figure.subplots(count, 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], report.panels, strict=True):
        values = [interval.value for interval in panel.values]
        below = [max(0.0, interval.value - interval.low) for interval in panel.values]
        above = [max(0.0, interval.high - interval.value) for interval in panel.values]
        bars = axes.barh(panel.labels, values, xerr=[below, above], color="0.7", ecolor="0.2")
        axes.bar_label(bars, [at_least_shown(value) for value in values], padding=4)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.set_title(panel.title, fontsize="medium", loc="left")
        if panel.limit is not None:
            axes.axvline(panel.limit, color="tab:red", linewidth=1)
    figure.tight_layout()
    path = folder / f"{report.name}.png"
    figure.savefig(path, dpi=150)
    return path
