"""What a run leaves behind: the table, the figure and the posterior."""

from collections.abc import Sequence
from pathlib import Path

import pyro
import torch
from torch.distributions import constraints

import pyro_dsvi as dsvi
from pyro_dsvi.demo.fitting import Fit, Quality
from pyro_dsvi.demo.problem import Data, guide, model, prior_scale

# Okabe and Ito's colours, which stay apart for colour-blind eyes; markers tell them apart too.
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73")
MARKERS = ("s", "^", "o", "D")
HEAD = (
    ("estimator", ""),
    ("bound", "nats"),
    ("gradient variance", "start"),
    ("", "end"),
    ("held-out", "error"),
    ("log score", "nats"),
    ("weights", "kept"),
    ("time", "s"),
)


def table(fits: Sequence[Fit], reference: Quality, reference_seconds: float) -> str:
    """The fits and scikit-learn's classifier side by side, as text."""
    rows = [tuple(column[line] for column in HEAD) for line in (0, 1)]
    for f in fits:
        measures = (f"{f.bound:.1f}", f"{f.variance_start:.2e}", f"{f.variance_end:.2e}")
        kept = f"{int(f.kept.sum())}/{len(f.kept)}"
        rows.append((f.name, *measures, *_scores(f.quality), kept, f"{f.seconds:.1f}"))
    scores = _scores(reference)
    rows.append(("LogisticRegression", "-", "-", "-", *scores, "-", f"{reference_seconds:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in rest)]).rstrip())
    lines.insert(2, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _scores(quality: Quality) -> tuple[str, str]:
    return f"{quality.wrong}/{quality.points}", f"{quality.log_score:.4f}"


def figure(fits: Sequence[Fit], data: Data, path: Path) -> None:
    """Draw the bound by step, the gradients' variance and the relevance vectors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(14, 4.6), layout="constrained")
    FigureCanvasAgg(canvas)  # no window, and nobody's choice of backend is changed
    bound, variance, points = canvas.subplots(1, 3, width_ratios=(1.25, 1, 1))
    _draw_bounds(bound, fits)
    _draw_variances(variance, fits)
    _draw_points(points, fits[-1], data)
    for axes in (bound, variance, points):
        axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=150)


def _draw_bounds(axes, fits: Sequence[Fit]) -> None:
    for f, colour, marker in zip(fits, COLOURS, MARKERS, strict=True):
        every = max(1, len(f.steps) // 8)
        axes.plot(f.steps, f.bounds, color=colour, marker=marker, markevery=every, label=f.name)
    axes.set_yscale("symlog", linthresh=10, subs=(2, 5))
    lowest = min(min(f.bounds) for f in fits)
    ticks = [t for t in (-20, -50, -100, -200, -500, -1000, -2000, -5000) if t > 1.3 * lowest]
    axes.set_yticks(ticks, [f"−{-tick}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="step", ylabel="bound on all training data (nats)")
    axes.set_title("Bound by step")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)


def _draw_variances(axes, fits: Sequence[Fit]) -> None:
    for row, (f, colour) in enumerate(zip(fits, COLOURS, strict=True)):
        for shift, value, full in ((-0.18, f.variance_start, False), (0.18, f.variance_end, True)):
            fill = colour if full else "none"
            axes.barh(row + shift, value, 0.32, facecolor=fill, edgecolor=colour, linewidth=1.5)
            axes.annotate(
                f" {value:.0e} {'end' if full else 'start'}",
                (value, row + shift),
                va="center",
                fontsize="small",
            )
    values = [v for f in fits for v in (f.variance_start, f.variance_end)]
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 5, max(values) * 50)
    axes.set_yticks(range(len(fits)), [f.name for f in fits])
    axes.invert_yaxis()
    axes.set(xlabel="total variance over the guide's parameters (nats²)")
    axes.set_title("Variance of a step's gradient")


def _draw_points(axes, fit: Fit, data: Data) -> None:
    _, _, directions = torch.linalg.svd(data.train, full_matrices=False)
    plane = data.train @ directions[:2].T
    kept = fit.kept[1:]
    for label, name, colour, marker in (
        (0, "malignant", "#CC79A7", "x"),
        (1, "benign", "#56B4E9", "."),
    ):
        chosen = plane[data.train_labels == label]
        axes.scatter(*chosen.T.numpy(), s=18, c=colour, marker=marker, linewidth=0.8, label=name)
    ring = {"s": 110, "facecolors": "none", "edgecolors": "black", "linewidths": 1.6}
    axes.scatter(*plane[kept].T.numpy(), **ring, label="relevance vector")
    axes.set(xlabel="first principal component", ylabel="second principal component")
    axes.set_title(f"{int(kept.sum())} of {len(kept)} points kept ({fit.name})")
    axes.legend(frameon=False)


def save_posterior(fit: Fit, data: Data, path: Path) -> None:
    """Write the posterior as a netCDF file that arviz opens."""
    store = pyro.get_param_store()
    with store.scope(), torch.random.fork_rng(devices=[]):
        pyro.param("loc", fit.loc)
        pyro.param("scale", fit.scale, constraint=constraints.positive)
        inference = dsvi.to_arviz(
            model,
            guide,
            data.basis(data.train),
            data.train_labels,
            num_samples=len(fit.draws),
            coords={"basis": data.names, "points": data.rows},
            dims=dict.fromkeys(("weights", "prior_scale", "relevance", "kept"), ("basis",)),
            constant_data={
                "prior_scale": prior_scale(fit.loc, fit.scale),
                "relevance": fit.relevance,
                "kept": fit.kept.to(torch.int8),
            },
            chunk_size=50,  # a draw takes a basis as large as the data
        )
    inference["posterior"].attrs["estimator"] = fit.name
    inference.to_netcdf(str(path))
