r"""How far the guide's weights can be trusted, datum by datum, beside the bound.

The shape k̂ of a datum's tail of weights says whether leaving it out can be computed from the
guide's draws: up to :math:`\min(1 - 1 / \log_{10} S, 0.7)` for S draws.  The bound says how good
the guide is as a whole.

References:
    :cite:p:`vehtari2024psis`, :cite:p:`magnusson2019loo`
"""

import warnings
from typing import Any

import numpy as np

from pyro_dsvi.export.groups import arviz_series
from pyro_dsvi.export.loo import loo
from pyro_dsvi.figures.canvas import BLUE, GREY, VERMILION, new_figure, plain


def plot_pareto_k(idata: Any, *, var_name: str | None = None) -> Any:
    """k̂ of each left-out datum against its threshold, with the bound and the elpd said above.

    Args:
        idata: from :func:`pyro_dsvi.to_arviz`.
        var_name: the observed variable, where there are several.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: as :func:`pyro_dsvi.loo` does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it would say is drawn
        found = loo(idata, var_name=var_name)
    k = np.asarray(found.pareto_k).reshape(-1)
    good, datum = float(found.good_k), np.arange(k.size)
    elpd = found.elpd_loo if arviz_series() == 0 else found.elpd

    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    safe = k <= good
    axes.plot(datum[safe], k[safe], "o", color=BLUE, markersize=5, label=f"good ({safe.sum()})")
    axes.plot(
        datum[~safe], k[~safe], "x", color=VERMILION, markersize=6, label=f"bad ({(~safe).sum()})"
    )
    axes.axhline(good, color=GREY, linestyle="--", linewidth=1, label=f"threshold {good:.2f}")
    finite = k[np.isfinite(k)]
    low, high = min(0.0, *finite, good), max(good, *finite)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.12 * (high - low))
    axes.set(xlabel="datum left out", ylabel="Pareto k̂")
    axes.set_title(f"{_bound(idata)}elpd {elpd:.1f} ± {found.se:.1f} nats", fontsize="medium")
    plain(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _bound(idata: Any) -> str:
    """The evidence lower bound as the draws estimate it; nothing for those of a chain."""
    stats = idata["sample_stats"]
    if "log_q" not in stats.data_vars:
        return ""
    log_w = np.asarray(stats["lp"] - stats["log_q"]).reshape(-1)
    error = log_w.std(ddof=1) / np.sqrt(len(log_w))
    return f"ELBO {log_w.mean():.2f} ± {error:.2f} nats, "
