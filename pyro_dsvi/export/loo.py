r"""Leave-one-out cross-validation from a guide's draws, weighed as the posterior's.

A draw :math:`z_s` of the guide stands in for one of the posterior without datum i once it has the
weight

.. math:: w_{is} \propto \frac{1}{p(y_i \mid z_s)} \cdot \frac{p(y, z_s)}{q(z_s)}, \qquad
    \widehat{\mathrm{elpd}}_i = \log \frac{\sum_s w_{is}\, p(y_i \mid z_s)}{\sum_s w_{is}},

whose tail is smoothed by a Pareto distribution.  Without the second factor the guide's draws are
taken for the posterior's, and a guide that is too narrow makes the model look better than it is.
The shape k̂ of the fitted tails says whether the weights can be trusted.  This module needs neither
torch nor Pyro.

References:
    :cite:p:`magnusson2019loo`, :cite:p:`vehtari2017loo`, :cite:p:`vehtari2024psis`
"""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from pyro_dsvi.errors import DSVIWarning, InvalidArgument
from pyro_dsvi.export.groups import SAMPLE_DIMS, arviz_series


def loo(idata: Any, *, var_name: str | None = None) -> Any:
    """Expected log predictive density of data left out one by one, in nats.

    Under arviz 1 this is ``arviz.loo_approximate_posterior``, before that the same by hand.  Draws
    without ``log_q`` are those of a Markov chain, for which it is ``arviz.loo``.  As there, p_loo
    compares with the draws' own, unweighted, predictive density.

    Args:
        idata: from :func:`pyro_dsvi.to_arviz`.
        var_name: the observed variable, where there are several.

    Returns:
        arviz's own ``ELPDData``, with its pointwise values and k̂, which ``arviz.compare`` and
        ``arviz.plot_khat`` take.

    Raises:
        InvalidArgument: if there is no log likelihood, or several and no choice.
    """
    name = _variable(idata, var_name)
    if "log_q" not in _dataset(idata, "sample_stats"):
        import arviz as az

        return az.loo(idata, pointwise=True, var_name=name)
    if arviz_series() >= 1:
        return _by_arviz(idata, name)
    return _by_hand(idata, name)


def _variable(idata: Any, var_name: str | None) -> str:
    names = list(_dataset(idata, "log_likelihood"))
    if not names:
        raise InvalidArgument("loo: there is no group log_likelihood; export by dsvi.to_arviz")
    if var_name is None and len(names) > 1:
        raise InvalidArgument(f"loo: several variables were observed, {names}; pass var_name=")
    if var_name is not None and var_name not in names:
        raise InvalidArgument(f"loo: {var_name!r} has no log likelihood; there are {names}")
    return names[0] if var_name is None else var_name


def _dataset(idata: Any, group: str) -> Mapping[str, Any]:
    """A group's variables; nothing where there is no such group."""
    names: Any = idata.groups  # a method before arviz 1
    names = names if isinstance(names, tuple) else names()
    return idata[group].data_vars if group in [n.strip("/") for n in names] else {}


def _by_arviz(idata: Any, name: str) -> Any:
    stats = idata["sample_stats"]
    loo_of_guide = import_module("arviz").loo_approximate_posterior
    return loo_of_guide(
        idata, log_p=stats["lp"], log_q=stats["log_q"], pointwise=True, var_name=name
    )


def _by_hand(idata: Any, name: str) -> Any:
    import arviz as az
    import xarray as xr
    from arviz.stats.stats_utils import ELPDData

    stacked = {"__sample__": SAMPLE_DIMS}
    likelihood = idata["log_likelihood"][name].astype("float64").stack(stacked)
    stats = idata["sample_stats"]
    correction = (stats["lp"] - stats["log_q"]).astype("float64").stack(stacked)
    log_w, pareto_k = az.psislw((correction - likelihood).transpose(*likelihood.dims))

    elpd_i = xr.DataArray(_logsumexp(log_w + likelihood), coords=_coords(likelihood), name="loo_i")
    samples, points = likelihood.sizes["__sample__"], elpd_i.size
    lppd = float((_logsumexp(likelihood) - np.log(samples)).sum())
    elpd = float(elpd_i.sum())
    good_k = min(1 - 1 / np.log10(samples), 0.7)
    unsafe = int((pareto_k > good_k).sum())
    if unsafe:
        warnings.warn(
            f"k̂ is above {good_k:.2f} at {unsafe} of {points} data: the guide's weights cannot be "
            "trusted there; use a richer guide, or more draws",
            DSVIWarning,
            stacklevel=3,
        )
    found = {
        "elpd_loo": elpd,
        "se": float((points * elpd_i.var()) ** 0.5),
        "p_loo": lppd - elpd,
        "n_samples": samples,
        "n_data_points": points,
        "warning": unsafe > 0,
        "loo_i": elpd_i,
        "pareto_k": pareto_k,
        "scale": "log",
        "good_k": good_k,
    }
    return ELPDData(data=list(found.values()), index=list(found))


def _logsumexp(x: Any) -> Any:
    """Over the samples."""
    highest = x.max("__sample__")
    return np.log(np.exp(x - highest).sum("__sample__")) + highest


def _coords(x: Any) -> dict[str, Any]:
    return {dim: x.coords[dim] for dim in x.dims if dim != "__sample__"}
