"""Leaving data out comes to the same under arviz 0, by hand, and under arviz 1."""

import numpy as np
import pytest
from scipy import stats

from pyro_dsvi.export.groups import Labelled, arviz_series, group, inference_data
from pyro_dsvi.export.loo import loo

Y = np.array([0.3, 1.4, -0.2, 0.8, 2.1, 0.6, 1.0, -0.5])
S = 20_000


def posterior(y):
    """Of a normal mean with unit noise and prior deviation 2."""
    variance = 1 / (len(y) + 1 / 4)
    return variance * y.sum(), variance**0.5


def made(seed=0):
    """Draws from a guide that is off and too wide."""
    mean, std = posterior(Y)
    q = stats.norm(mean + 0.7 * std, 1.3 * std)
    mu = q.rvs((1, S), random_state=seed)
    likelihood = stats.norm(mu[..., None], 1).logpdf(Y)
    lp = likelihood.sum(-1) + stats.norm(0, 2).logpdf(mu)
    sample = ("chain", "draw")
    return inference_data(
        {
            "posterior": group({"mu": Labelled(sample, mu)}),
            "log_likelihood": group({"y": Labelled((*sample, "item"), likelihood)}),
            "sample_stats": group(
                {"lp": Labelled(sample, lp), "log_q": Labelled(sample, q.logpdf(mu))}
            ),
        }
    )


def pointwise(found):
    return np.asarray(found.loo_i if arviz_series() == 0 else found.elpd_i)


def exact():
    others = [posterior(np.delete(Y, i)) for i in range(len(Y))]
    return np.array(
        [stats.norm(m, (1 + s**2) ** 0.5).logpdf(y) for y, (m, s) in zip(Y, others, strict=True)]
    )


def test_the_corrected_elpd_is_exact():
    found = loo(made())
    assert pointwise(found) == pytest.approx(exact(), abs=0.01)
    assert float(np.max(found.pareto_k)) < 0.7


def test_the_elpd_does_not_depend_on_the_arviz(exported):
    # The two fit the tail to draws that differ by one.
    found = loo(inference_data(exported["groups"]))
    assert pointwise(found) == pytest.approx(exported["elpd"], abs=0.01)


def test_arviz_compares_what_we_give_it():
    import warnings

    import arviz as az

    first, second = made(0), made(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arviz 0 under pandas 3
        table = az.compare({"first": loo(first), "second": loo(second)})
    assert set(table.index) == {"first", "second"}


def test_psislw_of_arviz_1_negates_what_it_is_given():
    """It takes log likelihoods, and weighs by their inverse; arviz 0 takes log weights."""
    import arviz as az
    import xarray as xr

    log_w = xr.DataArray(np.random.default_rng(0).normal(size=500), dims="__sample__")
    if arviz_series() == 0:
        smoothed, _ = az.psislw(log_w.values)
        sign = 1
    else:
        smoothed, _ = log_w.azstats.psislw(dim="__sample__")
        sign = -1
    assert np.argmax(np.asarray(smoothed)) == np.argmax(sign * log_w.values)
    order = np.argsort(sign * log_w.values)
    assert (np.diff(np.asarray(smoothed)[order]) >= -1e-9).all()
