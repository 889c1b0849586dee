"""An empty figure that opens no window and changes nobody's choice of backend."""

from typing import Any

# Okabe and Ito's colours.
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"


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


def plain(axes: Any) -> None:
    """Take away the lines that bound no data."""
    axes.spines[["top", "right"]].set_visible(False)
