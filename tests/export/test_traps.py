"""Programs that an export easily gets wrong, each of them found to be."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

import pyro_dsvi as dsvi
from pyro_dsvi.errors import DSVIWarning, IncompatibleSite, SiteMismatch

Y = torch.tensor([0.5, -0.3, 1.1, 0.2])


def mean_guide(*args):
    pyro.sample("mu", dist.Normal(0.2, 0.3))


def export(model, guide, *args, number=6, **options):
    return dsvi.to_arviz(model, guide, *args, num_samples=number, **options)


# -- deterministic sites, factors --------------------------------------------------------------


def with_deterministic(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("item", len(y)):
        double = pyro.deterministic("double", 2 * mu * torch.ones(len(y)))
        pyro.sample("y", dist.Normal(double, 1.0), obs=y)


def test_uncondition_blows_up_deterministic_sites_and_the_export_does_not():
    plate = pyro.plate("draws", 6, dim=-2)
    trace = poutine.trace(plate(poutine.uncondition(with_deterministic))).get_trace(Y)
    assert trace.nodes["double"]["value"].shape != (6, 4)  # what the trap is
    idata = export(with_deterministic, mean_guide, Y)
    for group in (idata.posterior, idata.prior):
        assert group["double"].dims == ("chain", "draw", "item")
        expected = np.repeat(2 * group["mu"].values[..., None], 4, -1)
        assert group["double"].values == pytest.approx(expected)
    assert "double" not in idata.posterior_predictive
    assert "double" not in idata.observed_data


@pytest.mark.parametrize("draws", [2, 3, 4])
def test_a_constant_vector_is_an_event_whatever_the_number_of_draws(draws):
    def model(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("grid", torch.arange(3.0))
        with pyro.plate("item", len(y)):
            pyro.deterministic("index", torch.arange(4.0))
            pyro.deterministic("pairs", torch.arange(12.0).reshape(4, 3), event_dim=1)
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    idata = export(model, mean_guide, Y, number=draws, dims={"grid": ["knot"]})
    assert idata.posterior["grid"].dims == ("chain", "draw", "knot")
    assert idata.posterior["grid"].values[0, -1].tolist() == [0.0, 1.0, 2.0]
    assert idata.posterior["index"].dims == ("chain", "draw", "item")
    assert idata.posterior["pairs"].dims == ("chain", "draw", "item", "pairs_dim_0")
    # Nothing of the observations depends on a latent, and each draw has its own all the same.
    assert len(np.unique(idata.posterior_predictive["y"].values)) == 4 * draws


def test_a_vector_that_depends_on_a_draw_is_an_event():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("powers", torch.stack([mu, mu**2], -1))
        with pyro.plate("item", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    posterior = export(model, mean_guide, Y).posterior
    mu = posterior["mu"].values
    assert posterior["powers"].values == pytest.approx(np.stack([mu, mu**2], -1))


def test_factors_are_in_no_group_but_count_in_lp():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y)):
            pyro.factor("pull", -mu.expand(len(y)) if mu.dim() == 0 else -mu * torch.ones(len(y)))
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    idata = export(model, mean_guide, Y)
    named = {name for group in idata.groups() for name in idata[group].data_vars}
    assert named == {"mu", "y", "lp", "log_q"}
    mu = torch.as_tensor(idata.posterior["mu"].values[0])
    lp = dist.Normal(0.0, 1.0).log_prob(mu) - 4 * mu
    lp += dist.Normal(mu[:, None], 1.0).log_prob(Y).sum(-1)
    assert idata.sample_stats["lp"].values[0] == pytest.approx(lp.numpy(), abs=1e-4)


# -- minibatches -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "source"), [("model", "guide"), ("guide", "guide"), ("model", "samples")]
)
@pytest.mark.parametrize("kind", ["drawn", "given"])
def test_a_minibatch_is_refused_as_it_would_pass_for_the_data(where, kind, source):
    options = {"subsample_size": 2} if kind == "drawn" else {"subsample": torch.tensor([0, 3])}

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y), **(options if where == "model" else {})) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    def guide(y):
        mean_guide()
        if where == "guide":
            with pyro.plate("item", len(y), **options):
                pyro.sample("z", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    if source == "samples":
        guide = {"mu": torch.zeros(3)}
    with pytest.raises(IncompatibleSite, match=r"plate 'item' holds 2 of its 4 elements"):
        export(model, guide, Y, number=3 if source == "guide" else None)


def test_the_whole_plate_of_a_program_that_can_subsample_is_the_data():
    def model(y, size=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y), subsample_size=size) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    idata = export(model, lambda y, size=None: mean_guide(), Y)
    assert idata.observed_data["y"].values.tolist() == Y.tolist()


def test_a_minibatch_among_the_data_to_predict_is_refused():
    def model(y, size=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y), subsample_size=size) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    with pytest.raises(IncompatibleSite, match="holds 2 of its 4"):
        export(model, lambda y, size=None: mean_guide(), Y, predictions=(Y, 2))


# -- enumerated latents ------------------------------------------------------------------------


def mixture(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("item", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


@pytest.mark.parametrize("drawn", [mean_guide, {"mu": torch.zeros(5)}])
def test_a_latent_left_to_enumeration_is_refused_as_its_draws_would_be_the_prior(drawn):
    number = 5 if callable(drawn) else None
    with pytest.raises(IncompatibleSite, match=r"site 'z': it is marked for enumeration"):
        export(mixture, drawn, Y, number=number)


def test_a_latent_that_the_guide_enumerates_is_drawn_from_the_guide():
    def guide(y):
        mean_guide()
        with pyro.plate("item", len(y)):
            q = dist.Bernoulli(torch.tensor([0.0, 1.0, 0.0, 1.0]))
            pyro.sample("z", q, infer={"enumerate": "parallel"})

    posterior = export(mixture, guide, Y).posterior
    assert posterior["z"].values.tolist() == [[[0.0, 1.0, 0.0, 1.0]] * 6]


def test_a_latent_that_nobody_draws_is_refused():
    with pytest.raises(SiteMismatch, match="site 'mu': the model samples it"):
        export(with_deterministic, lambda y: None, Y)


# -- priors that cannot be drawn from ----------------------------------------------------------


def improper(y):
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("item", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_an_improper_prior_leaves_the_groups_of_the_prior_out_and_says_so():
    with pytest.warns(DSVIWarning, match=r"prior_predictive are left out: site 'mu': Improper"):
        idata = export(improper, mean_guide, Y)
    assert {"prior", "prior_predictive"}.isdisjoint(idata.groups())
    assert {"posterior", "posterior_predictive", "log_likelihood"} <= set(idata.groups())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "prior" not in export(improper, mean_guide, Y, prior=False).groups()


def test_a_prior_whose_draws_the_model_cannot_take_is_left_out_and_said():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(-1000.0, 1.0))
        with pyro.plate("item", len(y)):
            pyro.sample("y", dist.Normal(0.0, torch.exp(mu)), obs=y)

    with pytest.warns(DSVIWarning, match="prior_predictive are left out: Expected parameter scale"):
        idata = export(model, mean_guide, Y)
    assert "prior" not in idata.groups()
    assert "posterior" in idata.groups()


# -- shapes ------------------------------------------------------------------------------------


def test_a_site_in_an_outer_plate_alone_has_no_axis_of_length_one():
    def model(y):
        with pyro.plate("outer", 3, dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.plate("inner", 4, dim=-1):
                pyro.sample("y", dist.Normal(a, 1.0), obs=y)
        with pyro.plate("inner", 4, dim=-1):
            pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide(y):
        with pyro.plate("outer", 3, dim=-2):
            pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("inner", 4, dim=-1):
            pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    idata = export(model, guide, torch.zeros(3, 4))
    assert idata.posterior["a"].dims == ("chain", "draw", "outer")
    assert idata.posterior["b"].dims == ("chain", "draw", "inner", "b_dim_0")
    samples = {"a": torch.randn(5, 3, 1), "b": torch.randn(5, 4, 2)}
    idata = export(model, samples, torch.zeros(3, 4), number=None)
    assert idata.posterior["a"].values[0] == pytest.approx(samples["a"][..., 0].numpy())


def test_an_observed_vector_keeps_its_event_in_the_data_and_not_in_the_likelihood():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y)):
            loc = mu.unsqueeze(-1) * torch.ones(2)
            pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)

    y = torch.randn(4, 2)
    idata = export(model, mean_guide, y, dims={"y": ["axis"]})
    assert idata.observed_data["y"].dims == ("item", "axis")
    assert idata.posterior_predictive["y"].dims == ("chain", "draw", "item", "axis")
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "item")


def test_likelihoods_are_masked_but_neither_scaled_nor_those_of_silent_sites():
    mask = torch.tensor([True, False, True, True])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y)):
            with poutine.scale(scale=3.0), poutine.mask(mask=mask):
                pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
            pyro.sample("silent", dist.Normal(mu, 1.0).mask(False), obs=y)

    idata = export(model, mean_guide, Y)
    mu = idata.posterior["mu"].values[0][:, None]
    expected = -0.5 * (Y.numpy() - mu) ** 2 - 0.5 * np.log(2 * np.pi)
    expected = np.where(mask, expected, 0.0)
    assert idata.log_likelihood["y"].values[0] == pytest.approx(expected, abs=1e-5)
    assert "silent" not in idata.log_likelihood
    prior = -0.5 * mu[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    lp = idata.sample_stats["lp"].values[0]
    assert lp == pytest.approx(prior + 3 * expected.sum(-1), abs=1e-4)


def test_a_batch_that_no_plate_declares_is_refused():
    def model(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises((SiteMismatch, ValueError), match="y"):
        export(model, mean_guide, Y)


def test_half_precision_becomes_single_as_numpy_has_no_other():
    def model():
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("half", torch.ones((), dtype=torch.bfloat16))

    assert export(model, mean_guide).posterior["half"].dtype == np.float32


def test_iterated_plates_name_their_sites_one_by_one():
    def model(y):
        for i in pyro.plate("item", 2):
            mu = pyro.sample(f"mu_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"y_{i}", dist.Normal(mu, 1.0), obs=y[i])

    def guide(y):
        for i in pyro.plate("item", 2):
            pyro.sample(f"mu_{i}", dist.Normal(0.0, 1.0))

    idata = export(model, guide, Y, predictions=(Y,))
    assert idata.posterior["mu_1"].dims == ("chain", "draw")
    assert set(idata.predictions.data_vars) == {"y_0", "y_1"}
