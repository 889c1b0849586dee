"""The variance of a gradient by site and estimator, on a logarithmic scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures.canvas import empty, legend_above, pens

_ROW = 0.24  # inches for each estimator of a site


def plot_gradient_variance(
    variance: Any, *, interval: Mapping[str, Mapping[str, tuple[float, float]]] | None = None
) -> Any:
    """Draw the variance of a step's gradient: a row for each site, a marker for each estimator.

    A variance of zero, which has no place on a logarithmic scale, stands at the left edge, as an
    open marker.

    Args:
        variance: for each estimator the variance by site, in nats² per unit² of the parameters;
            or the outcome of ``compare_estimators``.
        interval: for each estimator the lower and the upper end of an interval by site, as far as
            they are known.

    Returns:
        A ``matplotlib.figure.Figure``; save it by ``.savefig(path)``.

    Raises:
        InvalidArgument: if there is nothing to draw, or a variance is negative or not finite.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> figure = dsvi.figures.plot_gradient_variance(
        ...     {"ScoreFunction": {"z": 4.1}, "Pathwise": {"z": 0.02}}
        ... )
        >>> figure.axes[0].get_xscale()
        'log'
    """
    named = _by_estimator(variance)
    sites = list(dict.fromkeys(site for by_site in named.values() for site in by_site))
    interval = interval or {}
    positive = [v for by_site in named.values() for v in by_site.values() if v > 0]
    ends = [end for by_site in interval.values() for pair in by_site.values() for end in pair]
    positive += [end for end in ends if end > 0]
    low, high = (min(positive), max(positive)) if positive else (0.1, 1.0)
    edge = low / 10 ** (0.35 + 0.08 * np.log10(high / low))
    height = 1.5 + len(sites) * (_ROW * len(named) + 0.12)
    figure, (axes,) = empty(1, (7.2, height), (1.0,))
    for i, (pen, (name, by_site)) in enumerate(zip(pens(len(named)), named.items(), strict=True)):
        label = name
        for row, site in enumerate(sites):
            if site not in by_site:
                continue
            value, y = by_site[site], row + (i - (len(named) - 1) / 2) * 0.7 / len(named)
            ends = interval.get(name, {}).get(site)
            if ends is not None:
                axes.plot(np.maximum(ends, edge), (y, y), color=pen.colour, linewidth=1.4)
            fill = pen.colour if value > 0 else "white"
            drawn = {"color": pen.colour, "markerfacecolor": fill, "label": label}
            axes.plot(max(value, edge), y, pen.marker, markersize=7, clip_on=False, **drawn)
            label = "_"  # once in the legend
    _frame(axes, sites, edge, high, any(v == 0 for b in named.values() for v in b.values()))
    legend_above(figure, axes)
    return figure


def _by_estimator(variance: Any) -> dict[str, Mapping[str, float]]:
    measurements = getattr(variance, "measurements", None)
    if measurements is not None:
        variance = {m.name: m.variance_by_site for m in measurements}
    if not isinstance(variance, Mapping) or not any(variance.values()):
        raise InvalidArgument(
            "plot_gradient_variance: expected a mapping from estimators to variances by site, "
            f"got {variance!r}"
        )
    for name, by_site in variance.items():
        for site, value in by_site.items():
            if not (np.isfinite(value) and value >= 0):
                raise InvalidArgument(
                    f"plot_gradient_variance: {name!r} at site {site!r}: a variance is a number "
                    f"of at least 0, got {value!r}"
                )
    return dict(variance)


def _frame(axes: Any, sites: list[str], edge: float, high: float, zeros: bool) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(edge, high * (high / edge) ** 0.06)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(sites)), sites)
    axes.set_ylim(len(sites) - 0.45, -0.55)
    for line in range(1, len(sites)):
        axes.axhline(line - 0.5, color="0.85", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    note = "; an open marker at the left edge: 0" if zeros else ""
    axes.set_xlabel(f"variance of a step's gradient (nats² per unit²){note}")
