"""The reports' pictures, on matplotlib.

Colours are those of Okabe and Ito, which the colour-blind tell apart; wherever a colour says
something, a marker or a hatch says it too, for print.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyro_dsvi.diagnostics.comparison import Comparison
    from pyro_dsvi.diagnostics.decomposition import Decomposition, Split
    from pyro_dsvi.diagnostics.simulated_calibration import SimulatedCalibration
    from pyro_dsvi.diagnostics.weights import ImportanceWeights

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LATENT, _MINIBATCH = COLOURS[0], COLOURS[4]
_MOST_PANELS = 12
_EDGE = 3  # times the critical z-score: what is further out is drawn there
_MOST_POINTS = 2000  # elements drawn one by one


def draw_comparison(found: Comparison) -> Any:
    """Variance, error by samples, variance at equal samples and seconds, and z-scores."""
    figure, axes = _panels(2, 2, (11.0, 7.6))
    names = [m.name for m in found.measurements]
    style = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }
    _variances(axes[0, 0], found, style)
    _errors(axes[0, 1], found, style)
    _costs(axes[1, 0], found, style)
    _z_scores(axes[1, 1], found, style)
    _legend_on_top(figure, *axes[0, 1].get_legend_handles_labels())
    return figure


def _variances(axes: Any, found: Comparison, style: Any) -> None:
    for i, m in enumerate(found.measurements):
        v = m.total.variance
        colour, marker = style[m.name]
        error = [[v.value - v.low], [v.high - v.value]]
        axes.errorbar(v.value, i, xerr=error, fmt=marker, color=colour, capsize=4)
    _log_if_positive(axes, "x", [m.total.variance.value for m in found.measurements])
    _names(axes, [m.name for m in found.measurements])
    axes.set_xlabel("variance of a step's gradient, 95 % interval (nats² per unit²)")
    axes.set_title("variance")


def _errors(axes: Any, found: Comparison, style: Any) -> None:
    for m in found.measurements:
        samples, error = zip(*m.total.errors, strict=True) if m.total.errors else ((), ())
        colour, marker = style[m.name]
        rate = "" if math.isnan(m.total.rate) else f", error $S^{{{m.total.rate:.2f}}}$"
        label = f"{m.name}{rate}"
        axes.plot(samples, error, marker=marker, color=colour, markersize=5, label=label)
    points = [point for m in found.measurements for point in m.total.errors]
    _log_if_positive(axes, "x", [samples for samples, _ in points])
    _log_if_positive(axes, "y", [error for _, error in points])
    axes.set_xlabel("draws of the guide, S")
    axes.set_ylabel("error of the mean (nats per unit)")
    axes.set_title("consistency")


def _costs(axes: Any, found: Comparison, style: Any) -> None:
    values = []
    for m in found.measurements:
        x, y = m.total.at_equal_samples, m.total.at_equal_seconds
        colour, marker = style[m.name]
        axes.plot(x, y, marker, color=colour, markersize=8)
        values.append((x, y))
    if values:
        _log_if_positive(axes, "x", [x for x, _ in values])
        _log_if_positive(axes, "y", [y for _, y in values])
        axes.margins(0.1)
    axes.set_xlabel("at equal samples: variance × particles (nats² per unit²)")
    axes.set_ylabel("at equal seconds: variance × time\n(nats² s per unit²)")
    axes.set_title("efficiency: lower left is better")


def _z_scores(axes: Any, found: Comparison, style: Any) -> None:
    critical = 0.0
    for i, m in enumerate(found.measurements):
        z = np.concatenate([row.z.flatten().cpu().numpy() for row in m.certificate.rows] or [[]])
        critical = max([critical, *(row.critical for row in m.certificate.rows)])
        z = z[:: max(1, len(z) // _MOST_POINTS)]
        colour, marker = style[m.name]
        limit = _EDGE * max(critical, 1.0)
        shown = np.clip(np.nan_to_num(z, posinf=limit, neginf=-limit), -limit, limit)
        axes.plot(shown, np.full(len(shown), i), marker, color=colour, alpha=0.6)
    axes.axvspan(-critical, critical, color="0.9", zorder=0)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    _names(axes, [m.name for m in found.measurements])
    axes.set_xlabel(
        "z-scores in standard errors; grey: no bias seen\n"
        f"(beyond {_EDGE} times the grey: drawn at the edge)"
    )
    axes.set_title("bias")


def draw_decomposition(found: Decomposition) -> Any:
    """Latent and minibatch parts of the gradient's variance by term, plate, parameter and site."""
    part = found.total
    across = {}
    for name, plate in part.plates.items():
        across[f"{name}: O(1/M)"] = plate.independent
        across[f"{name}: O(1)"] = plate.common
    panels = [
        ("cost terms' shares", {"all": part.variance, **part.terms}),
        ("across data: N²/M Var and N²(M−1)/M Cov", across),
        ("parameters", {n: p.variance for n, p in found.parameters.items()}),
        ("sites of the guide", dict(found.sites)),
    ]
    panels = [(title, splits) for title, splits in panels if splits]
    most = max(len(splits) for _, splits in panels)
    rows = math.ceil(len(panels) / 2)
    figure, axes = _panels(rows, 2, (11.0, rows * max(2.4, 0.34 * min(most, 20) + 1.3)))
    for axis, (title, splits) in zip(axes.flat, panels, strict=False):
        _split_bars(axis, splits)
        axis.set_title(title)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    _legend_on_top(figure, handles, labels)
    return figure


def _split_bars(axes: Any, splits: dict[str, Split]) -> None:
    largest = sorted(splits, key=lambda n: -abs(splits[n].total))[:20]
    names = [name for name in splits if name in largest]
    y = np.arange(len(names))
    latent = np.array([splits[n].latent for n in names])
    minibatch = np.array([splits[n].minibatch for n in names])
    style = {"height": 0.36, "edgecolor": "black", "linewidth": 0.6}
    axes.barh(y - 0.19, latent, color=_LATENT, label="latent draws", **style)
    axes.barh(y + 0.19, minibatch, color=_MINIBATCH, hatch="///", label="minibatch", **style)
    axes.plot(latent + minibatch, y, "k|", markersize=15, markeredgewidth=2, label="total")
    axes.axvline(0, color="0.4", linewidth=0.8)
    _names(axes, names)
    axes.set_xlabel("variance (nats² per unit²)")


def draw_weights(found: ImportanceWeights) -> Any:
    """k̂ by element, and the largest weights' share of the whole."""
    figure, ((left, right),) = _panels(1, 2, (11.0, 4.4))
    start, count = 0, np.arange(1, found.num_samples + 1)
    for i, group in enumerate(found.groups):
        k = np.where(np.isposinf(group.pareto_k), np.nan, group.pareto_k).ravel()
        stride = max(1, k.size // _MOST_POINTS)
        at = np.arange(start, start + k.size)[::stride]
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        left.plot(at, k[::stride], linestyle="", markersize=5, label=group.name, **style)
        start += k.size
        ordered = -np.sort(-group.smoothed.log_weights, axis=1)
        share = np.exp(ordered).cumsum(1)
        worst = int(np.argmax(share[:, 0]))
        which = f", element {worst}" if len(share) > 1 else ""
        right.plot(count, share[worst], label=f"{group.name}{which}", markevery=0.1, **style)
    _thresholds(left, found.threshold)
    left.set_xlabel("element")
    left.set_ylabel(r"Pareto $\hat{k}$ of the weights")
    left.set_title("is the guide near the posterior?")
    right.plot(count, count / found.num_samples, "k:", label="equal weights")
    right.set_xscale("log")
    right.set_ylim(0, 1.02)
    right.set_xlabel("so many of the largest weights")
    right.set_ylabel("their share of the sum")
    right.set_title("how few draws count")
    _legend_on_top(figure, *right.get_legend_handles_labels())
    return figure


def _thresholds(axes: Any, limit: float) -> None:
    for value, style, words in (
        (0.5, ":", "0.5:\nfinite variance"),
        (limit, "--", f"{limit:.2f}:\nreliable below"),
        (1.0, "-", "1:\nfinite mean"),
    ):
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1)
        axes.annotate(
            words, (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, color="0.25",
        )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.05), max(high, 1.15))


def draw_calibration(found: SimulatedCalibration) -> Any:
    """Histograms of Pr(draw < truth), each with the band of uniform ones."""
    shown = min(len(found.names), _MOST_PANELS)
    columns = min(shown, 3)
    rows = math.ceil(shown / columns)
    figure, axes = _panels(rows, columns, (3.7 * columns, 2.9 * rows + 0.3))
    simulations = len(found.probabilities)
    bins = max(5, min(20, simulations // 10))
    low, high = _band(simulations, bins)
    order = np.argsort(found.p_value)[:shown] if shown < len(found.names) else np.arange(shown)
    verdicts = found.verdicts
    for axis, i in zip(axes.flat, order, strict=False):
        axis.axhspan(low, high, color="0.88", zorder=0)
        axis.axhline(simulations / bins, color="0.5", linewidth=0.8, zorder=1)
        edges = np.linspace(0, 1, bins + 1)
        counts, _ = np.histogram(found.probabilities[:, i], edges)
        axis.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.75, zorder=2)
        axis.stairs(counts, edges, color="black", linewidth=0.8, zorder=3)
        axis.set_title(f"{found.names[i]}: {verdicts[i]}", fontsize=10)
        axis.set_xlabel("Pr(draw < truth)")
        axis.set_ylabel("simulations")
    for axis in list(axes.flat)[shown:]:
        axis.set_visible(False)
    figure.suptitle("grey: where 95 % of the bars lie if the guide is the posterior", fontsize=9)
    return figure


def _band(simulations: int, bins: int) -> tuple[float, float]:
    from scipy.stats import binom

    low, high = binom.ppf([0.025, 0.975], simulations, 1 / bins)
    return float(low), float(high)


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _names(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _log_if_positive(axes: Any, which: str, values: list[float]) -> None:
    """A logarithmic axis, with enough numbers on it, and not too many."""
    from matplotlib import ticker

    if not values or min(values) <= 0:
        return
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def _legend_on_top(figure: Any, handles: list[Any], labels: list[str]) -> None:
    columns = 3 if len(labels) > 2 else max(1, len(labels))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
