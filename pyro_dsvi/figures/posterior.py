"""A posterior beside a reference: where a guide is too narrow, off, or blind to a tail."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures.canvas import BLUE, VERMILION, new_figure, plain

_COLUMNS = 4
_MOST = 32  # panels
_TAILS = (0.03, 0.97)
_KNOTS = np.linspace(0, 1, 200)
_LOOKS = ((BLUE, VERMILION), ("-", "--"))


def plot_posterior(
    idata: Any,
    reference: Any,
    *,
    var_names: Sequence[str] | None = None,
    labels: tuple[str, str] = ("guide", "reference"),
) -> Any:
    """Densities of both, and below them medians and central 94 % intervals, one panel an element.

    Args:
        idata: from :func:`pyro_dsvi.to_arviz`.
        reference: the same of another guide, or of a chain; or a mapping from variable to draws,
            ``[draws, *element]``.
        var_names: the variables; None for all that both have.
        labels: what the two are called.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: if a variable is missing or of another shape, or there are too many panels.
    """
    ours, theirs = _draws(idata), _draws(reference)
    names = list(var_names) if var_names is not None else [n for n in ours if n in theirs]
    panels = [panel for name in names for panel in _panels(name, ours, theirs, idata)]
    if not panels or len(panels) > _MOST:
        raise InvalidArgument(
            f"plot_posterior: {len(panels)} elements to draw, from 1 to {_MOST} have room; choose "
            "by var_names"
        )
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(2.6 * columns + 0.4, 2.0 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (title, *draws) in zip(grid.flat, panels, strict=False):
        for place, (x, colour, style) in enumerate(zip(draws, *_LOOKS, strict=True)):
            _draw(axes, x, place, colour, style)
        axes.set(xlabel=title, yticks=[])
        axes.spines["left"].set_visible(False)
        plain(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    lines = [line for line in grid.flat[0].lines if line.get_gid() == "density"]
    figure.legend(lines, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel("below each curve: median and central 94 % interval", fontsize="small")
    return figure


def _draws(source: Any) -> dict[str, np.ndarray]:
    """Draws by variable, ``[draws, *element]``."""
    if not hasattr(source, "groups"):
        return {name: np.asarray(x) for name, x in source.items()}
    found = source["posterior"]
    stacked = {name: np.asarray(x) for name, x in found.data_vars.items()}
    return {name: x.reshape(-1, *x.shape[2:]) for name, x in stacked.items()}


def _panels(
    name: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], idata: Any
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for who, draws in (("the posterior", ours), ("the reference", theirs)):
        if name not in draws:
            raise InvalidArgument(f"plot_posterior: {who} has no variable {name!r}")
    x, y = ours[name], theirs[name]
    if x.shape[1:] != y.shape[1:]:
        raise InvalidArgument(
            f"plot_posterior: {name!r} has elements of shape {x.shape[1:]}, in the reference "
            f"{y.shape[1:]}"
        )
    for index in np.ndindex(*x.shape[1:]):
        yield _title(name, index, idata), x[(slice(None), *index)], y[(slice(None), *index)]


def _title(name: str, index: tuple[int, ...], idata: Any) -> str:
    if not index:
        return name
    variable = idata["posterior"][name]
    labels = (
        str(variable.coords[dim].values[i]) for dim, i in zip(variable.dims[2:], index, strict=True)
    )
    return f"{name}[{', '.join(labels)}]"


def _draw(axes: Any, x: np.ndarray, place: int, colour: str, style: str) -> None:
    """One curve, and its interval on a line of its own below."""
    knots, density = _density(x)
    look = {"color": colour, "linestyle": style, "linewidth": 1.8}
    axes.plot(knots, density / density.max(), gid="density", **look)
    low, high = np.quantile(x, _TAILS)
    y = -0.12 * (place + 1)
    axes.plot([low, high], [y, y], solid_capstyle="butt", color=colour, linewidth=1.8)
    axes.plot([np.median(x)], [y], marker="so"[place], markersize=5, color=colour)


def _density(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import gaussian_kde

    low, high = np.quantile(x, (0.002, 0.998))
    if not high > low:
        return np.array([low, low]), np.array([0.0, 1.0])  # a point
    margin = 0.1 * (high - low)
    knots = low - margin + (high - low + 2 * margin) * _KNOTS
    return knots, gaussian_kde(x)(knots)
