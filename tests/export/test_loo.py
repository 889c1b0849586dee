"""Leaving data out: the guide's weights corrected, against the exact answer."""

import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal

import pyro_dsvi as dsvi
from benchmarks.programs import hierarchical_regression as regression
from pyro_dsvi.errors import InvalidArgument, PlatesMergedWarning

# -- a conjugate model, by hand ----------------------------------------------------------------

Y = torch.tensor([0.3, 1.4, -0.2, 0.8, 2.1, 0.6, 1.0, -0.5], dtype=torch.float64)


def normal(y, scale=1.0):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    with pyro.plate("item", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def posterior_of(y, scale=1.0):
    variance = 1 / (len(y) / scale**2 + 1 / 4)
    return variance * y.sum() / scale**2, variance**0.5


def exact_elpd():
    """Each datum under the posterior predictive of the others."""
    terms = []
    for i in range(len(Y)):
        mean, scale = posterior_of(torch.cat([Y[:i], Y[i + 1 :]]))
        terms.append(dist.Normal(mean, (1 + scale**2) ** 0.5).log_prob(Y[i]))
    return float(sum(terms))


def guide_of(shift, width):
    """So many posterior standard deviations off, and so many times as wide."""

    def guide(y, scale=1.0):
        mean, std = posterior_of(y, scale)
        pyro.sample("mu", dist.Normal(mean + shift * std, width * std))

    return guide


def export(guide, number=20_000):
    return dsvi.to_arviz(normal, guide, Y, num_samples=number, prior=False, chunk_size=20_000)


@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (0.7, 1.3), (0.0, 2.0)])
def test_the_corrected_elpd_is_that_of_the_exact_posterior_whatever_the_guide(shift, width):
    found = dsvi.loo(export(guide_of(shift, width)))
    assert found.elpd_loo == pytest.approx(exact_elpd(), abs=0.02)
    assert found.pareto_k.max() < 0.7


def test_without_the_correction_a_guide_is_judged_for_itself():
    naive = az.loo(export(guide_of(1.5, 1.3)))
    assert abs(naive.elpd_loo - exact_elpd()) > 0.2


def test_the_weights_are_those_of_the_formula():
    idata = export(guide_of(0.3, 1.5), number=400)
    found = dsvi.loo(idata)
    likelihood = idata.log_likelihood["y"].values[0]
    ratio = (idata.sample_stats["lp"] - idata.sample_stats["log_q"]).values[0][:, None]
    log_w, k = az.psislw((ratio - likelihood).T)
    elpd = np.log(np.exp(log_w + likelihood.T).sum(-1))
    assert found.loo_i.values == pytest.approx(elpd, abs=1e-10)
    assert found.pareto_k.values == pytest.approx(k, abs=1e-10)
    assert found.elpd_loo == pytest.approx(elpd.sum(), abs=1e-10)
    assert found.se == pytest.approx((len(Y) * elpd.var()) ** 0.5, abs=1e-10)
    lppd = np.log(np.exp(likelihood).mean(0)).sum()
    assert found.p_loo == pytest.approx(lppd - elpd.sum(), abs=1e-10)


def test_where_the_guide_is_the_posterior_it_is_arvizs_loo():
    idata = export(guide_of(0.0, 1.0), number=500)
    ours, theirs = dsvi.loo(idata), az.loo(idata, pointwise=True)
    assert list(ours.index) == list(theirs.index)
    for name in ("elpd_loo", "se", "p_loo", "good_k"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6)
    for name in ("loo_i", "pareto_k"):
        assert ours[name].values == pytest.approx(theirs[name].values, abs=1e-6)
        assert ours[name].dims == theirs[name].dims


def test_samples_of_a_chain_need_no_correction():
    mean, std = posterior_of(Y)
    idata = dsvi.to_arviz(normal, {"mu": mean + std * torch.randn(400).double()}, Y)
    ours, theirs = dsvi.loo(idata), az.loo(idata, pointwise=True)
    assert ours.elpd_loo == theirs.elpd_loo
    assert (ours.pareto_k == theirs.pareto_k).all()


def test_weights_that_cannot_be_trusted_are_said():
    with pytest.warns(dsvi.DSVIWarning, match=r"k̂ is above 0\.67 at 8 of 8 data"):
        found = dsvi.loo(export(guide_of(4.0, 0.2), number=1000))
    assert found.warning


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")  # arviz's own
def test_the_better_model_wins_the_comparison():
    def export_at(scale):
        guide = guide_of(0.0, 1.5)
        return dsvi.to_arviz(normal, guide, Y, scale, num_samples=2000, prior=False)

    table = az.compare({name: dsvi.loo(export_at(s)) for name, s in (("one", 1.0), ("five", 5.0))})
    assert list(table.index) == ["one", "five"]
    assert table.loc["one", "elpd_loo"] > table.loc["five", "elpd_loo"] + 3


# -- a hierarchical regression, by quadrature --------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Draws of a guide that was fitted by a bound that minds the tails, and the exact answer."""
    x, y = regression.data()
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(0)
        guide = AutoMultivariateNormal(regression.model, init_scale=0.2)
        optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.05 ** (1 / 300)})
        objective = dsvi.DReG(num_particles=8)
        svi = pyro.infer.SVI(regression.model, guide, optimizer, objective)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlatesMergedWarning)  # as it should be here
            for _ in range(300):
                svi.step(x, y)
        idata = dsvi.to_arviz(regression.model, guide, x, y, num_samples=4000, prior=False)
    return idata, *regression.exact(x, y)


def test_on_a_hierarchical_regression_the_correction_takes_the_error_away(fitted):
    idata, _, elpd_i = fitted
    corrected = dsvi.loo(idata)
    with pytest.warns(UserWarning, match="Estimated shape parameter"):
        naive = az.loo(idata)
    assert abs(corrected.elpd_loo - elpd_i.sum()) < 0.1
    assert abs(naive.elpd_loo - elpd_i.sum()) > 0.2
    assert corrected.pareto_k.max() < 0.7


def test_the_exported_densities_estimate_the_exact_evidence(fitted):
    idata, log_evidence, _ = fitted
    log_w = (idata.sample_stats["lp"] - idata.sample_stats["log_q"]).values[0]
    assert np.log(np.exp(log_w - log_evidence).mean()) == pytest.approx(0.0, abs=0.1)


def test_the_quadrature_is_right_where_one_datum_is_left_out_by_hand():
    x, y = regression.data()
    log_evidence, elpd_i = regression.exact(x[:1, :5], y[:1, :5])
    for i in (0, 3):
        rest = [j for j in range(5) if j != i]
        without, _ = regression.exact(x[:1, rest], y[:1, rest])
        assert elpd_i[i] == pytest.approx(log_evidence - without, abs=1e-10)


# -- refusals ----------------------------------------------------------------------------------


def test_no_likelihood_or_several_without_a_choice_are_refused():
    def two(y):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
        with pyro.plate("item", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
            pyro.sample("u", dist.Normal(mu, 1.0), obs=y)

    idata = dsvi.to_arviz(two, guide_of(0.0, 1.5), Y, num_samples=500, prior=False)
    with pytest.raises(InvalidArgument, match=r"several variables were observed, \['y', 'u'\]"):
        dsvi.loo(idata)
    assert dsvi.loo(idata, var_name="u").n_data_points == len(Y)
    with pytest.raises(InvalidArgument, match="'w' has no log likelihood"):
        dsvi.loo(idata, var_name="w")
    del idata.log_likelihood
    with pytest.raises(InvalidArgument, match="no group log_likelihood"):
        dsvi.loo(idata)
