"""Importance weights against tails, evidences and divergences that are known."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import importance_weights
from pyro_dsvi.diagnostics.pareto import meaning, smooth, threshold
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

X = f64([0.3, 1.2, -0.5])


def local(loc, scale, minibatch=None):
    """A latent for each datum: z ~ N(0, 1), x ~ N(z, 1), posterior N(x/2, 1/2)."""

    def model():
        with pyro.plate("data", 3, subsample_size=minibatch) as i:
            z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X[i])

    def guide():
        with pyro.plate("data", 3, subsample_size=minibatch) as i:
            pyro.sample("z", dist.Normal(X[i] / 2 + loc, scale))

    return model, guide


def common(scale, minibatch=None):
    """One latent for all data, whose posterior is N(Σx/4, 1/4)."""

    def model():
        z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
        with pyro.plate("data", 3, subsample_size=minibatch) as i:
            pyro.sample("x", dist.Normal(z, 1.0), obs=X[i])

    def guide():
        pyro.sample("z", dist.Normal(X.sum() / 4, scale))

    return model, guide


def log_normal(x, variance):
    return -0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance)


EACH = np.array([log_normal(float(x), 2.0) for x in X])


@pytest.mark.parametrize("minibatch", [None, 2])
def test_the_posterior_itself(minibatch):
    """All weights are the evidence: nothing is left to chance."""
    found = importance_weights(*local(0.0, f64(0.5).sqrt(), minibatch), num_samples=50)
    group = found["z"]
    assert group.plates == ("data",)
    assert found.pareto_k == 0
    assert found.reliable
    assert group.effective_sample_size == pytest.approx(50, rel=1e-9)
    assert found.gap == pytest.approx(0, abs=1e-10)
    if minibatch is None:
        assert group.log_evidence == pytest.approx(EACH, abs=1e-10)
        assert found.log_evidence == pytest.approx(EACH.sum(), abs=1e-10)
    else:
        assert group.weight == 1.5
        assert found.log_evidence == pytest.approx(1.5 * group.log_evidence.sum(), abs=1e-10)
    assert "the guide is close" in found.advice


def test_evidence_and_gap():
    """KL from N(m + 0.3, 0.8) to N(m, 1/2), three times."""
    found = importance_weights(*local(0.3, f64(0.8).sqrt()), num_samples=4000, batch_size=1500)
    assert found["z"].log_w.shape == (4000, 3)
    z = (found.log_evidence - EACH.sum()) / found.standard_error
    assert abs(z) < 4
    kl = 3 * 0.5 * (0.8 / 0.5 + 0.3**2 / 0.5 - 1 - math.log(0.8 / 0.5))
    each = found["z"].log_w.std(0) / math.sqrt(4000)
    assert abs(found.bound - (EACH.sum() - kl)) < 4 * math.sqrt((each**2).sum())
    assert found.gap == pytest.approx(kl, abs=0.1)
    assert found.pareto_k < 0.5  # wider than the posterior: bounded weights


@pytest.mark.parametrize("variance", [0.1, 0.25, 0.4])
def test_the_tails_index(variance):
    """Weights of N(0, v) for N(0, 1/2), v < 1/2, have Pareto tails of index k = 1 - 2 v."""
    found = importance_weights(*local(0.0, f64(variance).sqrt()), num_samples=8000)
    expected = 1 - 2 * variance
    assert found["z"].pareto_k.mean() == pytest.approx(expected, abs=0.15)  # of three
    assert found.reliable is bool(found.pareto_k < 0.7)


def test_joint_weights():
    found = importance_weights(*common(f64(0.25).sqrt()), num_samples=100)
    assert found["z"].plates == ()
    assert found["z"].log_w.shape == (100,)
    total = float(dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(X.float()))
    assert found.log_evidence == pytest.approx(total, abs=1e-5)
    with pytest.raises(KeyError):
        found["x"]


def test_terms_that_no_latent_reaches():
    model, guide = common(f64(0.25).sqrt())

    def longer():
        model()
        pyro.sample("y", dist.Normal(f64(0.0), 1.0), obs=f64(1.0))

    more = importance_weights(longer, guide, num_samples=50).log_evidence
    assert more - importance_weights(model, guide, num_samples=50).log_evidence == pytest.approx(
        log_normal(1.0, 1.0), abs=1e-10
    )


def test_a_bad_guide_is_called_bad():
    narrow = importance_weights(*local(1.0, f64(0.05)))
    assert not narrow.reliable
    assert narrow.pareto_k > 0.7
    assert "trusted" in narrow.advice
    assert "above the threshold" in narrow.advice
    joint = importance_weights(*common(f64(0.05)))
    assert "vsbc" in joint.advice


def test_discrete_latents_have_too_few_weights_for_a_fit():
    def model():
        z = pyro.sample("z", dist.Bernoulli(f64(0.5)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=f64(1.0))

    def guide():  # whatever the site asks for, it is drawn from the guide
        infer = {"estimator": dsvi.GumbelSoftmax(0.5)}
        pyro.sample("z", dist.Bernoulli(f64(0.5)), infer=infer)

    found = importance_weights(model, guide, num_samples=400)
    assert math.isnan(found.pareto_k)
    assert len(np.unique(found["z"].log_w.round(8))) == 2
    expected = math.log(0.5 * (math.exp(log_normal(0, 1)) + math.exp(log_normal(1, 1))))
    assert abs(found.log_evidence - expected) < 4 * found.standard_error
    assert "effective sample size" in found.advice


def test_programs_that_do_not_broadcast_and_that_branch():
    def model():
        z = pyro.sample("z", dist.Bernoulli(f64(0.5)))
        if z.item() > 0:
            y = pyro.sample("y", dist.Normal(f64(0.0), 1.0))
            pyro.sample("x", dist.Normal(y, 1.0), obs=f64(1.0))
        else:
            pyro.sample("x", dist.Normal(f64(0.0), 1.0), obs=f64(1.0))

    def guide():
        if pyro.sample("z", dist.Bernoulli(f64(0.5))).item() > 0:
            pyro.sample("y", dist.Normal(f64(0.5), f64(0.5).sqrt()))

    found = importance_weights(model, guide, num_samples=60, batch_size=4)
    assert found["z"].log_w.shape == (60,)
    expected = math.log(0.5 * (math.exp(log_normal(1, 2)) + math.exp(log_normal(1, 1))))
    assert abs(found.log_evidence - expected) < 4 * found.standard_error


def test_smoothing_keeps_the_body_and_sums_to_one():
    log_w = np.random.default_rng(0).normal(0, 2, (3, 500))
    found = smooth(log_w)
    assert np.exp(found.log_weights).sum(1) == pytest.approx(1)
    body = np.argsort(log_w[0])[:300]
    shift = found.log_weights[0, body] - log_w[0, body]
    assert shift == pytest.approx(shift[0])
    assert (found.effective > 1).all()


def test_thresholds():
    assert threshold(10_000) == 0.7
    assert threshold(100) == pytest.approx(0.5)
    for k, words in [(0.4, "close"), (0.6, "usable"), (0.68, "about 1334"), (0.9, "misses")]:
        assert words in meaning(k, 1000)
    assert "no finite mean" in meaning(1.2, 1000)
    assert math.ceil(10 ** (1 / (1 - 0.68))) == 1334


def test_it_prints_and_goes_to_pandas():
    found = importance_weights(*local(0.1, f64(0.6)), num_samples=200)
    for word in ("ELBO", "nats", "worst k", "z, per element of data"):
        assert word in str(found)
    assert "<table>" in found._repr_html_()
    frame = found.to_pandas()
    assert list(frame.index.names) == ["sites", "element"]
    assert frame["log evidence"].sum() == pytest.approx(found.log_evidence)


def test_nothing_is_disturbed():
    model, _ = common(f64(0.5))
    loc = pyro.param("loc", f64(0.1))
    loc.grad = f64(3.0)
    state = random_state()
    importance_weights(
        model, lambda: pyro.sample("z", dist.Normal(pyro.param("loc"), 1.0)), num_samples=30
    )
    assert same_random_state(random_state(), state)
    assert loc.grad == 3.0
    assert list(pyro.get_param_store()) == ["loc"]


def test_refusals():
    with pytest.raises(InvalidArgument, match="at least 25"):
        importance_weights(*local(0.0, f64(1.0)), num_samples=5)
    with pytest.raises(InvalidArgument, match=r"plate 'data' takes 2 of 3"):
        importance_weights(*common(f64(0.5), 2), num_samples=30)
    with pytest.raises(InvalidArgument, match="nothing to weigh"):
        importance_weights(lambda: None, lambda: None, num_samples=30)
