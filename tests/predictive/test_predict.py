"""Probabilities are averaged, and nothing else; every draw counts once, however it is run."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample

import pyro_dsvi as dsvi
from pyro_dsvi.errors import LoopedParticlesWarning
from pyro_dsvi.predictive import ClassPrediction, MixturePrediction


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def logistic(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        logits = (w * x).sum(-1) + b
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def linear(x, y=None, scale=0.5):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal((w * x).sum(-1), scale), obs=y)


def linear_guide(x, y=None, scale=0.5):
    factor = torch.tensor([[0.6, 0.0], [-0.5, 0.3]])
    loc = torch.tensor([1.0, -0.5])
    pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=factor))


def test_classes_are_the_mean_of_the_draws_probabilities():
    x, draws = torch.randn(4, 2), {"w": torch.randn(7, 2), "b": torch.randn(7)}
    each = torch.sigmoid(draws["w"] @ x.T + draws["b"].unsqueeze(-1))
    found = dsvi.predict(logistic, draws, x)
    assert isinstance(found, ClassPrediction)
    assert found.num_samples == 7
    expected = torch.stack([1 - each.mean(0), each.mean(0)], -1)
    torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean, each.mean(0), rtol=0, atol=1e-12)
    error = each.std(0) / math.sqrt(7)
    torch.testing.assert_close(found.standard_error[:, 1], error, rtol=0, atol=1e-10)
    score = found.log_score(torch.ones(4))
    torch.testing.assert_close(score.value, each.mean(0).log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(score.standard_error, error / each.mean(0), rtol=0, atol=1e-10)


def test_neither_logits_nor_parameters_nor_log_probabilities_are_averaged():
    """Two draws that contradict each other: a coin, where any other mean is sure or undecided."""
    x = torch.tensor([[1.0, 0.0]])
    draws = {"w": torch.tensor([[-2.0, 0.0], [6.0, 0.0]]), "b": torch.zeros(2)}
    found = float(dsvi.predict(logistic, draws, x).mean)
    sure = torch.sigmoid(torch.tensor([-2.0, 6.0]))
    assert found == pytest.approx(float(sure.mean()), abs=1e-12)
    of_parameters = float(torch.sigmoid(torch.tensor(2.0)))
    of_logs = float(sure.log().mean().exp())
    assert abs(found - of_parameters) > 0.3
    assert abs(found - of_logs) > 0.2


def test_a_discrete_posterior_is_summed_out_by_samples_in_its_proportions():
    """q(k) = (1, 2, 5) / 8 and what follows from it exactly, with a categorical likelihood."""
    rows = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])

    def model(n, y=None):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        with pyro.plate("data", n):
            pyro.sample("y", dist.Categorical(rows[k]), obs=y)

    draws = {"k": torch.tensor([0, 1, 1, 2, 2, 2, 2, 2])}
    expected = (rows * torch.tensor([1.0, 2.0, 5.0]).unsqueeze(-1)).sum(0) / 8
    for chunk in (3, 8):
        found = dsvi.predict(model, draws, 2, chunk=chunk)
        torch.testing.assert_close(found.probabilities, expected.expand(2, 3), rtol=0, atol=1e-12)
    entropy = dist.Categorical(rows).entropy() @ torch.tensor([1.0, 2.0, 5.0]) / 8
    torch.testing.assert_close(found.expected_entropy, entropy.expand(2), rtol=0, atol=1e-12)
    information = dist.Categorical(expected).entropy() - entropy
    torch.testing.assert_close(found.mutual_information, information.expand(2), rtol=0, atol=1e-12)
    assert found.classes.tolist() == [1, 1]


def test_linear_regression_has_the_closed_form_within_its_own_standard_error():
    x, y = torch.randn(6, 2), torch.randn(6)
    loc = torch.tensor([1.0, -0.5])
    factor = torch.tensor([[0.6, 0.0], [-0.5, 0.3]])
    variance = ((x @ factor) ** 2).sum(-1) + 0.25
    exact = dist.Normal(x @ loc, variance.sqrt())
    found = dsvi.predict(linear, linear_guide, x, num_samples=20_000, chunk=5000)
    assert isinstance(found, MixturePrediction)
    score = found.log_score(y)
    z = (score.value - exact.log_prob(y)) / score.standard_error
    assert float(z.abs().max()) < 4
    assert float(score.standard_error.max()) < 0.05
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(found.variance, variance, rtol=0.05, atol=0)
    quantiles = found.quantile([0.05, 0.5, 0.95])
    expected = torch.stack([exact.icdf(torch.tensor(q)) for q in (0.05, 0.5, 0.95)])
    torch.testing.assert_close(quantiles, expected, rtol=0, atol=0.06)


def test_the_mixture_is_that_of_the_draws_exactly():
    x, y, w = torch.randn(5, 2), torch.randn(5), torch.randn(9, 2)
    found = dsvi.predict(linear, {"w": w}, x, chunk=4)
    laws = dist.Normal(w @ x.T, 0.5)
    log_p = laws.log_prob(y)
    score = found.log_score(y)
    torch.testing.assert_close(score.value, log_p.exp().mean(0).log(), rtol=0, atol=1e-12)
    error = log_p.exp().std(0) / 3 / log_p.exp().mean(0)
    torch.testing.assert_close(score.standard_error, error, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.mean, laws.mean.mean(0), rtol=0, atol=1e-12)
    second = (laws.mean**2).mean(0) + 0.25 - found.mean**2
    torch.testing.assert_close(found.variance, second, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.cdf(y), laws.cdf(y).mean(0), rtol=0, atol=1e-12)
    q = torch.tensor([0.01, 0.3, 0.99])
    for p, quantile in zip(q, found.quantile(q), strict=True):
        torch.testing.assert_close(found.cdf(quantile), p.expand(5), rtol=0, atol=1e-10)


def test_a_log_score_far_in_the_tail_stays_finite():
    x = torch.tensor([[1.0, 0.0]])
    found = dsvi.predict(linear, {"w": torch.tensor([[0.0, 0.0], [0.1, 0.0]])}, x)
    y = torch.tensor([100.0])
    exact = dist.Normal(torch.tensor([0.0, 0.1]), 0.5).log_prob(y).logsumexp(0) - math.log(2)
    torch.testing.assert_close(found.log_score(y).value, exact.unsqueeze(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("vectorize", [True, False, None])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_and_loops_give_the_same(vectorize, chunk):
    draws = {"w": torch.randn(7, 2), "b": torch.randn(7)}
    x = torch.randn(4, 2)
    expected = dsvi.predict(logistic, draws, x).probabilities
    found = dsvi.predict(logistic, draws, x, chunk=chunk, vectorize=vectorize)
    torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=1e-12)


def test_memory_of_the_runs_is_that_of_a_chunk():
    seen = []

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        seen.append(w.numel() // 2)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=(w * x).sum(-1)), obs=y)

    dsvi.predict(model, {"w": torch.randn(20, 2)}, torch.randn(4, 2), chunk=8, vectorize=True)
    assert max(seen) == 8
    assert sum(n for n in seen[-3:]) == 20


def test_a_program_that_does_not_broadcast_is_looped_over_and_says_so():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    draws, x = {"w": torch.randn(5, 2)}, torch.randn(3, 2)
    with pytest.warns(LoopedParticlesWarning, match="model is run in a loop over 5 draws"):
        found = dsvi.predict(model, draws, x)
    expected = torch.sigmoid(draws["w"] @ x.T).mean(0)
    torch.testing.assert_close(found.mean, expected, rtol=0, atol=1e-12)


def test_one_that_broadcasts_wrongly_is_looped_over():
    """Summed over everything, the draws side by side would be mixed without an error."""

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(w.sum() * x, 1.0), obs=y)

    draws, x = {"w": torch.randn(5)}, torch.randn(3)
    with pytest.warns(LoopedParticlesWarning, match="law of site 'y' changes"):
        found = dsvi.predict(model, draws, x)
    torch.testing.assert_close(found.mean, draws["w"].mean() * x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (1, 1), (3, 4)])
def test_plates_of_size_one_and_plates_left_out(shape):
    """A site in the outer plate alone, one in the inner alone, and the data in both."""
    rows, columns = shape

    def model(y=None):
        outer = pyro.plate("outer", rows, dim=-2)
        inner = pyro.plate("inner", columns, dim=-1)
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with outer:
            r = pyro.sample("r", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with inner:
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with outer, inner:
            pyro.sample("y", dist.Normal(a + r.sum(-1) * c, 1.0), obs=y)

    draws = {"a": torch.randn(4), "r": torch.randn(4, rows, 1, 2), "c": torch.randn(4, columns)}
    law = draws["a"].reshape(4, 1, 1) + draws["r"].sum(-1) * draws["c"].unsqueeze(1)
    for vectorize in (True, False, None):
        found = dsvi.predict(model, draws, redraw=[], vectorize=vectorize)
        assert found.batch_shape == shape
        torch.testing.assert_close(found.mean, law.mean(0), rtol=0, atol=1e-12)
        y = torch.randn(shape)
        expected = dist.Normal(law, 1.0).log_prob(y).exp().mean(0).log()
        torch.testing.assert_close(found.log_score(y).value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectorize", [True, False, None])
def test_data_in_fewer_plates_than_the_latents(vectorize):
    def model(n, y=None):
        with pyro.plate("groups", 4, dim=-2):
            r = pyro.sample("r", dist.Normal(0.0, 1.0))
        loc = r.mean(-2, keepdim=True)
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("y", dist.Normal(loc if loc.dim() > 2 else loc[0], 1.0), obs=y)

    r, y = torch.randn(5, 4, 1), torch.randn(3)
    found = dsvi.predict(model, {"r": r}, 3, vectorize=vectorize)
    assert found.batch_shape == (3,)
    law = dist.Normal(r.mean(1), 1.0)
    torch.testing.assert_close(found.mean, law.mean.mean(0).expand(3), rtol=0, atol=1e-12)
    expected = law.log_prob(y).exp().mean(0).log()
    torch.testing.assert_close(found.log_score(y).value, expected, rtol=0, atol=1e-12)


def test_an_event_is_scored_whole_and_has_quantiles_by_element():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(w.unsqueeze(-1) * x, 1.0).to_event(1), obs=y)

    x, w, y = torch.randn(4, 3), torch.randn(6), torch.randn(4, 3)

    laws = dist.Normal(w.reshape(6, 1, 1) * x, 1.0)
    expected = laws.log_prob(y).sum(-1).exp().mean(0).log()
    for vectorize in (None, False):
        found = dsvi.predict(model, {"w": w}, x, vectorize=vectorize)
        torch.testing.assert_close(found.log_score(y).value, expected, rtol=0, atol=1e-12)
        assert found.quantile(0.9).shape == (4, 3)
        torch.testing.assert_close(found.cdf(found.quantile(0.9)), torch.full((4, 3), 0.9))


def test_counts_have_probabilities_and_quantiles():
    def model(n, y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", n):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    rates = torch.tensor([1.0, 8.0])
    found = dsvi.predict(model, {"rate": rates}, 2)
    y = torch.tensor([0.0, 7.0])
    expected = dist.Poisson(rates.unsqueeze(-1)).log_prob(y).exp().mean(0).log()
    torch.testing.assert_close(found.log_score(y).value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.variance, torch.full((2,), 4.5 + 3.5**2))
    assert found.quantile([0.25, 0.75]).tolist() == [[1.0, 1.0], [8.0, 8.0]]


def test_binomial_counts_are_classes():
    def model(y=None):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Binomial(4, p), obs=y)

    p = torch.tensor([0.2, 0.9])
    found = dsvi.predict(model, {"p": p})
    expected = dist.Binomial(4, p.unsqueeze(-1)).log_prob(torch.arange(5.0)).exp().mean(0)
    torch.testing.assert_close(found.probabilities, expected.expand(2, 5), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean, torch.full((2,), 4 * 0.55))


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_and_data_of_another_size(make):
    guide = make(logistic)
    guide(torch.randn(10, 2), torch.ones(10))
    found = dsvi.predict(logistic, guide, torch.randn(3, 2), num_samples=30, chunk=10)
    assert found.probabilities.shape == (3, 2)
    again = dsvi.predict(logistic, guide, torch.randn(5, 2), None, num_samples=1)
    assert again.probabilities.shape == (5, 2)
    assert again.log_score(torch.ones(5)).standard_error.isnan().all()


def test_an_autoguide_in_both_ways_has_the_same_expectation():
    guide = AutoNormal(logistic)
    x = torch.randn(3, 2)
    guide(x, torch.ones(3))
    found = [
        dsvi.predict(logistic, guide, x, num_samples=2000, chunk=500, vectorize=way)
        for way in (None, False)
    ]
    error = (found[0].standard_error ** 2 + found[1].standard_error ** 2).sqrt()
    z = (found[0].probabilities - found[1].probabilities) / error
    assert float(z.abs().max()) < 4


def test_mcmc():
    x, y = torch.randn(8, 2), torch.ones(8)
    mcmc = MCMC(NUTS(logistic), num_samples=6, warmup_steps=4, disable_progbar=True)
    mcmc.run(x, y)
    found = dsvi.predict(logistic, mcmc, x)
    samples = mcmc.get_samples()
    expected = torch.sigmoid(samples["w"] @ x.T + samples["b"].unsqueeze(-1)).mean(0)
    torch.testing.assert_close(found.mean, expected, rtol=0, atol=1e-10)


class Network(PyroModule):
    """A layer of a module with random weights, which torch does not broadcast over draws."""

    def __init__(self):
        super().__init__()
        self.layer = PyroModule[torch.nn.Linear](2, 3)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))

    def forward(self, x, y=None):
        logits = self.layer(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def test_a_pyro_module():
    network, x = Network(), torch.randn(4, 2)
    guide = AutoNormal(network)
    guide(x, torch.zeros(4))
    weight = torch.randn(5, 3, 2)
    logits = torch.einsum("sij,nj->sni", weight, x) + network.layer.bias
    found = dsvi.predict(network, {"layer.weight": weight}, x, vectorize=False)
    expected = logits.softmax(-1).mean(0)
    torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=1e-12)
    assert not found.probabilities.requires_grad
    with pytest.warns(LoopedParticlesWarning):
        dsvi.predict(network, guide, x, num_samples=4)


def test_fewer_samples_are_taken_evenly():
    draws = {"w": torch.randn(6, 2)}
    x = torch.randn(3, 2)
    found = dsvi.predict(linear, draws, x, num_samples=3)
    expected = (draws["w"][[0, 2, 4]] @ x.T).mean(0)
    torch.testing.assert_close(found.mean, expected, rtol=0, atol=1e-12)


def test_the_outcome_given_is_the_same_as_left_out():
    draws, x, y = {"w": torch.randn(6, 2)}, torch.randn(3, 2), torch.randn(3)
    left_out, given = (dsvi.predict(linear, draws, x, *more) for more in ((), (y,)))
    torch.testing.assert_close(left_out.log_score(y).value, given.log_score(y).value)


def test_predicting_leaves_no_trace_in_parameters():
    guide = AutoNormal(logistic)
    x = torch.randn(3, 2)
    guide(x, torch.ones(3))
    before = {name: p.detach().clone() for name, p in guide.named_parameters()}
    stored = set(pyro.get_param_store())
    dsvi.predict(logistic, guide, x, num_samples=3)
    assert set(pyro.get_param_store()) == stored
    for name, p in guide.named_parameters():
        torch.testing.assert_close(p, before[name])
        assert p.grad is None
