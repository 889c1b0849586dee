"""What is exported is what the programs computed, under the right names and in the right shape."""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument, SiteMismatch
from pyro_dsvi.export import export_groups
from tests.export.programs import (
    LEVEL_SCALE,
    LOG_TAU,
    NOISE,
    PUPILS,
    SCHOOLS,
    WEIGHTS,
    data,
    guide,
    level_loc,
    model,
)

S = 60


@pytest.fixture
def idata():
    x, y = data()
    return dsvi.to_arviz(
        model,
        guide,
        x,
        y,
        num_samples=S,
        coords={"school": SCHOOLS, "term": ["intercept", "slope"]},
        dims={"weights": ["term"], "x": ["school", "pupil"]},
        constant_data={"x": x},
        chunk_size=25,  # does not divide the draws
    )


def test_every_group_is_there_with_its_dimensions(idata):
    assert isinstance(idata, az.InferenceData)
    draws, both = ("chain", "draw"), ("school", "pupil")
    latents = {
        "weights": (*draws, "term"),
        "tau": draws,
        "level": (*draws, "school"),
        "above": (*draws, "school"),
        "mean": (*draws, *both),
    }
    expected = {
        "posterior": latents,
        "prior": latents,
        "posterior_predictive": {"y": (*draws, *both)},
        "prior_predictive": {"y": (*draws, *both)},
        "log_likelihood": {"y": (*draws, *both)},
        "sample_stats": {"lp": draws, "log_q": draws},
        "observed_data": {"y": both},
        "constant_data": {"x": both},
    }
    found = {
        group: {name: x.dims for name, x in idata[group].data_vars.items()}
        for group in idata.groups()
    }
    assert found == expected
    assert dict(idata.posterior.sizes) == {
        "chain": 1,
        "draw": S,
        "term": 2,
        "school": len(SCHOOLS),
        "pupil": PUPILS,
    }
    assert list(idata.posterior.coords["school"].values) == SCHOOLS
    assert list(idata.observed_data.coords["school"].values) == SCHOOLS
    assert list(idata.posterior.coords["pupil"].values) == list(range(PUPILS))
    assert idata.posterior.attrs["inference_library"] == "pyro_dsvi"


def by_hand(idata):
    """Log likelihood, log joint and log guide density of the exported draws, by scipy."""
    x, y = (t.numpy() for t in data())
    z = {name: idata.posterior[name].values[0] for name in ("weights", "tau", "level")}
    intercept, slope = z["weights"][:, :1], z["weights"][:, 1:, None]
    mean = z["level"][..., None] + slope * x
    likelihood = stats.norm(mean, NOISE).logpdf(y)
    lp = stats.norm(0, 1).logpdf(z["weights"]).sum(-1) - 0.01 * z["tau"]
    lp += stats.lognorm(0.5).logpdf(z["tau"])
    lp += stats.norm(intercept, z["tau"][:, None]).logpdf(z["level"]).sum(-1)
    lp += likelihood.sum((-1, -2))
    log_q = stats.norm(*WEIGHTS).logpdf(z["weights"]).sum(-1)
    log_q += stats.lognorm(LOG_TAU[1], scale=np.exp(LOG_TAU[0])).logpdf(z["tau"])
    log_q += stats.norm(level_loc()[:, 0].numpy(), LEVEL_SCALE).logpdf(z["level"]).sum(-1)
    return mean, likelihood, lp, log_q


def test_densities_are_those_of_the_exported_draws(idata):
    mean, likelihood, lp, log_q = by_hand(idata)
    assert np.abs(idata.log_likelihood["y"].values[0] - likelihood).max() < 1e-10
    assert np.abs(idata.sample_stats["lp"].values[0] - lp).max() < 1e-10
    assert np.abs(idata.sample_stats["log_q"].values[0] - log_q).max() < 1e-10
    assert np.abs(idata.posterior["mean"].values[0] - mean).max() < 1e-12
    assert (idata.observed_data["y"].values == data()[1].numpy()).all()
    assert (idata.constant_data["x"].values == data()[0].numpy()).all()


def test_no_two_draws_are_the_same(idata):
    for name in ("tau", "level"):
        values = idata.posterior[name].values.reshape(S, -1)[:, 0]
        assert len(np.unique(values)) == S


def test_predictive_draws_belong_to_their_posterior_draw_and_are_near_it_by_the_noise():
    x, y = data()
    exact = dsvi.to_arviz(model, guide, x, y, 1e-9, num_samples=10)
    for group, of in (("posterior_predictive", "posterior"), ("prior_predictive", "prior")):
        assert np.abs(exact[group]["y"].values - exact[of]["mean"].values).max() < 1e-7
    noisy = dsvi.to_arviz(model, guide, x, y, num_samples=500, prior=False)
    z = (noisy.posterior_predictive["y"] - noisy.posterior["mean"]).values / NOISE
    assert stats.kstest(z.reshape(-1), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[0, :, 0, 0], z[0, :, 0, 1])[0, 1]) < 0.2


def test_prior_draws_come_from_the_prior():
    x, y = data()
    prior = dsvi.to_arviz(model, guide, x, y, num_samples=500).prior
    weights = prior["weights"].values.reshape(-1)
    assert stats.kstest(weights, "norm").pvalue > 1e-3
    z = (prior["above"] / prior["tau"]).values.reshape(-1)
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_predictions_for_other_data_keep_the_draws_of_global_latents():
    x, y = data()
    new = x[:3, :2] + 1.0
    names = ["Choate", "Deerfield", "Exeter"]
    idata = dsvi.to_arviz(
        model, guide, x, y, num_samples=30, predictions=(new, None, 1e-9),
        coords={"school": SCHOOLS}, prediction_coords={"school": names}, chunk_size=20,
    )  # fmt: skip
    predicted = idata.predictions
    assert predicted["y"].dims == ("chain", "draw", "school", "pupil")
    assert predicted["y"].shape == (1, 30, 3, 2)
    assert list(predicted.coords["school"].values) == names
    assert list(predicted.coords["pupil"].values) == [0, 1]
    assert np.abs((predicted["y"] - predicted["mean"]).values).max() < 1e-7
    # The slope shows in any school's difference between two pupils.
    mean = predicted["mean"].values[0]
    slope = (mean[:, 0, 1] - mean[:, 0, 0]) / float(new[0, 1] - new[0, 0])
    assert np.abs(slope - idata.posterior["weights"].values[0, :, 1]).max() < 1e-9


def test_predictions_take_keyword_arguments_and_look_at_no_observation():
    x, y = data()
    idata = dsvi.to_arviz(
        model, guide, x, y, num_samples=5, prior=False,
        predictions={"x": x, "y": y + 1e6, "noise": 1e-3},
    )  # fmt: skip
    assert np.abs(idata.predictions["y"].values).max() < 100


def test_an_amortised_guide_sees_the_new_data():
    def local(x, y=None):
        with pyro.plate("item", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def encoder(x, y=None):
        with pyro.plate("item", len(x)):
            pyro.sample("z", dist.Normal(x, 1e-6))

    x = torch.arange(4.0)
    new = torch.tensor([10.0, 20.0, 30.0, 40.0])  # as many as before: shapes tell nothing
    idata = dsvi.to_arviz(local, encoder, x, x, num_samples=3, predictions=(new,), prior=False)
    assert idata.posterior["twice"].values == pytest.approx(np.tile(2 * x, (1, 3, 1)), abs=1e-3)
    assert idata.predictions["twice"].values == pytest.approx(np.tile(2 * new, (1, 3, 1)), abs=1e-3)


def test_an_automatic_guide_leaves_its_auxiliary_sites_out():
    x, y = data()
    auto = pyro.infer.autoguide.AutoMultivariateNormal(model)
    groups = export_groups(model, auto, x.float(), y.float(), num_samples=8, prior=False)
    assert set(groups["posterior"]["data_vars"]) == {"weights", "tau", "level", "above", "mean"}
    assert groups["posterior"]["data_vars"]["level"]["data"].shape == (1, 8, len(SCHOOLS))


# -- programs that do not broadcast ------------------------------------------------------------


def lonely(y):
    """Python takes the value of one draw."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    scale = 1.0 if float(rate) > 1.0 else 0.5
    with pyro.plate("item", len(y)):
        pyro.sample("y", dist.Normal(rate, scale), obs=y)


def lonely_guide(y):
    pyro.sample("rate", dist.Gamma(3.0, 2.0))


def test_a_program_for_one_draw_is_run_for_one_draw_at_a_time():
    y = torch.tensor([0.3, 1.2], dtype=torch.float64)
    idata = dsvi.to_arviz(lonely, lonely_guide, y, num_samples=12)
    rate = idata.posterior["rate"].values[0]
    assert len(np.unique(rate)) == 12
    scale = np.where(rate > 1, 1.0, 0.5)[:, None]
    likelihood = stats.norm(rate[:, None], scale).logpdf(y.numpy())
    assert np.abs(idata.log_likelihood["y"].values[0] - likelihood).max() < 1e-6


def mixing(y):
    with pyro.plate("item", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)
    pyro.deterministic("total", z.sum())


def mixing_guide(y):
    with pyro.plate("item", len(y)):
        pyro.sample("z", dist.Normal(y / 2, 0.7))


@pytest.mark.parametrize("source", ["guide", "samples"])
def test_a_deterministic_that_mixes_draws_is_computed_draw_by_draw(source):
    y = torch.tensor([0.3, 1.2, -0.4])
    drawn = mixing_guide if source == "guide" else {"z": torch.randn(9, 3)}
    number = 9 if source == "guide" else None
    posterior = dsvi.to_arviz(mixing, drawn, y, num_samples=number).posterior
    assert posterior["total"].dims == ("chain", "draw")
    assert posterior["total"].values == pytest.approx(posterior["z"].values.sum(-1), abs=1e-5)


# -- samples of a chain ------------------------------------------------------------------------


def test_samples_by_name_give_the_same_densities():
    x, y = data()
    groups = export_groups(model, guide, x, y, num_samples=7, prior=False)
    posterior = {n: v["data"][0] for n, v in groups["posterior"]["data_vars"].items()}
    samples = {
        "weights": torch.as_tensor(posterior["weights"]),
        "tau": torch.as_tensor(posterior["tau"]),
        "level": torch.as_tensor(posterior["level"]).unsqueeze(-1),  # as in the program
    }
    again = export_groups(model, samples, x, y)
    for group, name in (("log_likelihood", "y"), ("sample_stats", "lp"), ("posterior", "mean")):
        ours, theirs = (g[group]["data_vars"][name] for g in (again, groups))
        assert ours["dims"] == theirs["dims"]
        assert np.abs(ours["data"] - theirs["data"]).max() < 1e-10
    assert "log_q" not in again["sample_stats"]["data_vars"]
    assert again["posterior"]["data_vars"]["level"]["data"].shape == (1, 7, len(SCHOOLS))
    assert "prior" in again


def test_an_mcmc_object_keeps_its_chains():
    class Ran:
        def get_samples(self, group_by_chain):
            assert group_by_chain
            return {"z": torch.arange(24.0).reshape(2, 4, 3)}

    y = torch.zeros(3)
    idata = dsvi.to_arviz(mixing, Ran(), y)
    assert idata.posterior["z"].shape == (2, 4, 3)
    assert idata.posterior["z"].values[1, 0].tolist() == [12.0, 13.0, 14.0]
    assert idata.prior["z"].shape == (1, 8, 3)
    assert idata.posterior["total"].values[1, 0] == 39.0


def test_samples_predict_other_data_and_draw_what_is_new_from_the_model():
    x, y = data()
    samples = {
        "weights": torch.tensor([[2.0, 0.0]] * 300).double(),
        "tau": torch.full((300,), 1e-6).double(),
        "level": torch.zeros(300, len(SCHOOLS), 1).double(),
    }
    new = torch.zeros(2, 3).double()  # two schools nobody has seen
    idata = dsvi.to_arviz(model, samples, x, y, predictions=(new,), prior=False)
    assert idata.predictions["mean"].values == pytest.approx(np.full((1, 300, 2, 3), 2.0), abs=1e-4)
    same = dsvi.to_arviz(model, samples, x, y, predictions=(x,), prior=False)
    assert same.predictions["mean"].values == pytest.approx(np.zeros((1, 300, 5, 4)), abs=1e-4)


# -- names -------------------------------------------------------------------------------------


def test_a_plate_named_as_a_variable_or_as_arviz_names_its_own_is_renamed():
    def model(y):
        with pyro.plate("draw", 2, dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.plate("y", 3, dim=-1):
                pyro.sample("obs", dist.Normal(a, 1.0), obs=y)
        pyro.deterministic("y", a)

    def guide(y):
        with pyro.plate("draw", 2, dim=-2):
            pyro.sample("a", dist.Normal(0.0, 1.0))

    idata = dsvi.to_arviz(model, guide, torch.zeros(2, 3), num_samples=4, prior=False)
    assert idata.log_likelihood["obs"].dims == ("chain", "draw", "draw_plate", "y_plate")


def test_names_of_event_dimensions_can_be_left_out_or_given_in_full():
    x, y = data()
    for dims, expected in (
        (None, ("weights_dim_0",)),
        ({"weights": ["term"]}, ("term",)),
    ):
        idata = dsvi.to_arviz(model, guide, x, y, num_samples=2, prior=False, dims=dims)
        assert idata.posterior["weights"].dims[2:] == expected
    idata = dsvi.to_arviz(model, guide, x, y, num_samples=2, prior=False, dims={"level": ["house"]})
    assert idata.posterior["level"].dims[2:] == ("house",)
    assert idata.posterior["above"].dims[2:] == ("school",)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"coords": {"scool": SCHOOLS}}, "no dimension 'scool'"),
        ({"coords": {"school": SCHOOLS[:2]}}, r"coords\['school'\]: 5 labels are needed"),
        ({"dims": {"wights": ["term"]}}, "no variable 'wights'"),
        ({"dims": {"weights": ["a", "b"]}}, r"dims\['weights'\]: got 2 names"),
        ({"dims": {"x": ["a"]}, "constant_data": {"x": torch.zeros(2, 2)}}, "got 1 names for 2"),
        ({"dims": {"weights": ["school"]}}, "'school' has length 5 here and 2 elsewhere"),
        ({"dims": {"x": ["a", "a"]}, "constant_data": {"x": torch.zeros(2, 2)}}, "name one twice"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1"),
        ({"num_samples": True}, "num_samples must be"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"predictions": torch.zeros(2, 2)}, "predictions: expected a tuple"),
        ({"prediction_coords": {"class": [1]}, "predictions": (data()[0],)}, "no dimension 'cla"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(options, complaint):
    x, y = data()
    with pytest.raises(InvalidArgument, match=complaint):
        dsvi.to_arviz(model, guide, x, y, **{"num_samples": 2, "prior": False, **options})


@pytest.mark.parametrize(
    ("given", "number", "complaint"),
    [
        (3, None, "expected a guide"),
        ({"z": torch.zeros(4, 3)}, 4, "all of which are exported"),
        ({"z": torch.zeros(4, 3), "w": torch.zeros(5)}, None, "same number of chains and draws"),
        ({"w": torch.zeros(5)}, None, "site 'z' is missing"),
    ],
)
def test_samples_that_cannot_work_are_refused(given, number, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        dsvi.to_arviz(mixing, given, torch.zeros(3), num_samples=number)


def test_a_guide_that_does_not_fit_other_data_is_refused():
    auto = pyro.infer.autoguide.AutoNormal(mixing)
    with pytest.raises(SiteMismatch, match="site 'z': its values are of shape"):
        dsvi.to_arviz(mixing, auto, torch.zeros(3), num_samples=4, predictions=(torch.zeros(5),))
