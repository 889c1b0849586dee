"""Latents of each datum: whose draws they are is asked, never guessed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def model(n, y=None):
    """Each datum has an effect of its own: y ~ N(m, 4 + 1) with the effect integrated out."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", n):
        z = pyro.sample("z", dist.Normal(m, 2.0))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize("vectorize", [None, False])
def test_drawn_anew_they_follow_the_model_at_data_of_another_size(vectorize):
    guide = AutoNormal(model)
    guide(7, torch.zeros(7))  # its own draws of z are seven
    samples = 4000 if vectorize is None else 500
    found = dsvi.predict(
        model, guide, 3, num_samples=samples, chunk=1000, redraw=["z"], vectorize=vectorize
    )
    y = torch.tensor([0.0, 2.0, -3.0])
    score = found.log_score(y)
    loc, scale = guide.locs.m.detach(), guide.scales.m.detach()
    exact = dist.Normal(loc, (scale**2 + 5).sqrt()).log_prob(y)
    assert float(((score.value - exact) / score.standard_error).abs().max()) < 4


def test_kept_they_are_the_guides():
    draws = {"m": torch.randn(5), "z": torch.randn(5, 3)}
    found = dsvi.predict(model, draws, 3, redraw=[])
    torch.testing.assert_close(found.mean, draws["z"].mean(0), rtol=0, atol=1e-12)


def test_an_amortised_guide_gives_them_from_the_new_inputs():
    def noisy(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(3 * z, 1.0), obs=y)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))  # the posterior given x

    x = torch.tensor([-2.0, 0.0, 4.0])
    found = dsvi.predict(noisy, guide, x, site="y", redraw=[], num_samples=4000, chunk=1000)
    exact = dist.Normal(1.5 * x, (9 * 0.5 + 1) ** 0.5)
    y = torch.tensor([-1.0, 0.0, 8.0])
    score = found.log_score(y)
    assert float(((score.value - exact.log_prob(y)) / score.standard_error).abs().max()) < 4
    with pytest.raises(IncompatibleSite, match=r"site 'z': drawn anew .* observed site 'x'"):
        dsvi.predict(noisy, guide, x, site="y", redraw=["z"])


def test_it_must_be_said_whose_they_are():
    draws = {"m": torch.randn(5), "z": torch.randn(5, 3)}
    with pytest.raises(IncompatibleSite, match=r"site 'z': it stands in plate 'data' with 'y'"):
        dsvi.predict(model, draws, 3)


def test_draws_of_other_data_are_refused_by_shape():
    draws = {"m": torch.randn(5), "z": torch.randn(5, 7)}
    for vectorize in (None, False):
        with pytest.raises(SiteMismatch, match=r"site 'z': .* \(7,\), .* samples \(3,\)"):
            dsvi.predict(model, draws, 3, redraw=[], vectorize=vectorize)


def test_a_latent_without_draws_is_refused():
    with pytest.raises(SiteMismatch, match="site 'm': the model samples it, but there is no draw"):
        dsvi.predict(model, {"z": torch.randn(5, 3)}, 3, site="y", redraw=[])
    with pytest.raises(InvalidArgument, match="'z', 'y' could be what to predict"):
        dsvi.predict(model, {"m": torch.randn(5)}, 3)


def test_a_minibatch_is_refused():
    def subsampled(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(w * x[rows], 1.0), obs=y)

    with pytest.raises(IncompatibleSite, match="plate 'data' draws a minibatch"):
        dsvi.predict(subsampled, {"w": torch.randn(4)}, torch.randn(6))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"site": "v"}, "the model has no site 'v'"),
        ({"site": "m"}, "site 'm': it is a latent of which there are draws"),
        ({"redraw": "z"}, "redraw is a list of names"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"num_samples": 6}, "num_samples must be 1 to 5"),
        ({"num_samples": 0}, "num_samples must be 1 to 5"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, words):
    draws = {"m": torch.randn(5)}
    with pytest.raises(InvalidArgument, match=words):
        dsvi.predict(model, draws, 3, **{"redraw": ["z"], **arguments})


@pytest.mark.parametrize(
    ("posterior", "words"),
    [
        (3, "got int"),
        ({}, "found no site"),
        ({"m": torch.zeros(2), "z": torch.zeros(3)}, "as many draws of each site"),
        ({"m": torch.zeros(())}, "as many draws"),
        ({"m": torch.zeros(0)}, "as many draws"),
    ],
)
def test_what_is_no_posterior(posterior, words):
    with pytest.raises(InvalidArgument, match=words):
        dsvi.predict(model, posterior, 3)


def test_a_guide_needs_a_draw():
    with pytest.raises(InvalidArgument, match="num_samples must be at least 1"):
        dsvi.predict(model, lambda n: None, 3, num_samples=0)


def test_what_was_seen_must_have_the_shape_and_be_a_class():
    def coin(n, y=None):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", n):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    found = dsvi.predict(coin, {"p": torch.rand(5)}, 3)
    with pytest.raises(InvalidArgument, match=r"site 'y': y has shape \(3, 1\)"):
        found.log_score(torch.ones(3, 1))
    with pytest.raises(InvalidArgument, match=r"a class, 0 to 1; found values from 0.0 to 2.0"):
        found.log_score(torch.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(InvalidArgument, match="a class"):
        found.calibration(torch.tensor([0.5, 1.0, 1.0]))
    real = dsvi.predict(model, {"m": torch.randn(5)}, 3, redraw=["z"])
    with pytest.raises(InvalidArgument, match=r"y has shape \(\)"):
        real.cdf(torch.tensor(0.0))
    with pytest.raises(InvalidArgument, match=r"q must be in \(0, 1\)"):
        real.quantile([0.5, 1.0])
