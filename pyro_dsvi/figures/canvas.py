"""An empty figure, and what tells its curves apart on paper and on every screen.

It opens no window and changes nobody's choice of backend.  Colours are Okabe's and Ito's, which the
colour-blind tell apart; each comes with a marker and a kind of line of its own, for print without
colours.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
_COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))


class Pen(NamedTuple):
    """How one curve is drawn."""

    colour: str
    marker: str
    line: Any


def pens(number: int) -> list[Pen]:
    """So many ways to draw a curve."""
    return [Pen(*pen) for pen in islice(cycle(zip(_COLOURS, _MARKERS, _LINES)), number)]  # noqa: B905


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of the given size, in inches.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'figures need matplotlib: pip install "pyro-dsvi[graph]"', name=error.name
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def empty(columns: int, size: tuple[float, float], widths: Sequence[float]) -> tuple[Any, Any]:
    """A figure and its axes, side by side.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure = new_figure(*size)
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)[0]
    for axis in axes:
        plain(axis)
    return figure, axes


def plain(axes: Any) -> None:
    """Take away the lines that bound no data."""
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(figure: Any, axes: Any) -> None:
    """The legend outside of the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = min(4, len(labels))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
