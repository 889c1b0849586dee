"""Three ways to one bound: weights drawn, one number a datum drawn, and the integral."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.messenger import Messenger

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.models import (
    RBF,
    BernoulliLikelihood,
    FullRank,
    GaussianLikelihood,
    Linear,
    MeanField,
    Polynomial,
    RelevanceVectorMachine,
    median_distance,
)

KINDS = (MeanField, FullRank)
LIKELIHOODS = (BernoulliLikelihood, GaussianLikelihood)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


class Noise(Messenger):
    """Draws a Gaussian site at the given standard noise, the same for each element of a plate."""

    def __init__(self, site, noise):
        super().__init__()
        self.site, self.noise = site, noise

    def _pyro_sample(self, msg):
        if msg["name"] != self.site or msg["done"]:
            return
        law = msg["fn"]
        if hasattr(law, "scale_tril"):
            msg["value"] = law.loc + law.scale_tril @ self.noise
        else:
            law = getattr(law, "base_dist", law)
            msg["value"] = law.loc + law.scale * self.noise
        msg["done"] = True


def quadrature(nodes, dimensions):
    where, weight = np.polynomial.hermite_e.hermegauss(nodes)
    for index in itertools.product(range(nodes), repeat=dimensions):
        rows = list(index)
        yield torch.tensor(where[rows]), float(np.prod(weight[rows] / math.sqrt(2 * math.pi)))


def machine(kind, likelihood, centres=1):
    """A machine away from its start, with data."""
    x = torch.randn(5, 2)
    y = (torch.rand(5) < 0.5).double()
    made = RelevanceVectorMachine(x[:centres], likelihood(), kernel=RBF(1.0), relevance=kind)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made, x, y


def gradient_of(made, loss):
    found = torch.autograd.grad(loss, list(made.parameters()))
    return {name: g for (name, _), g in zip(made.named_parameters(), found, strict=True)}


def expectation(made, programs, site, noises, x, y, **arguments):
    """The mean bound and gradient of an objective over all noises, by their weights."""
    objective = dsvi.PathwiseELBO()
    value, total = 0.0, {name: torch.zeros_like(p) for name, p in made.named_parameters()}
    for noise, weight in noises:
        made.zero_grad()
        with Noise(site, noise):
            value -= weight * objective.loss_and_grads(*programs, x, y, **arguments)
        for name, p in made.named_parameters():
            if p.grad is not None:
                total[name] = total[name] - weight * p.grad
    return value, total


def assert_same(made, found, x, y, tolerance):
    bound = made.bound(x, y)
    assert found[0] == pytest.approx(bound.item(), abs=tolerance)
    for name, g in gradient_of(made, bound).items():
        torch.testing.assert_close(found[1][name], g, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_number_a_datum_has_the_bound_and_its_gradient(kind, likelihood):
    """All data at one node of the quadrature: the bound is additive, so no more is needed."""
    made, x, y = machine(kind, likelihood, centres=4)
    noises = list(quadrature(32, 1))
    found = expectation(made, (made.local_model, made.local_guide), "f", noises, x, y)
    assert_same(made, found, x, y, 1e-10)


@pytest.mark.parametrize(
    ("kind", "likelihood"), [(MeanField, BernoulliLikelihood), (FullRank, GaussianLikelihood)]
)
def test_weights_drawn_have_the_same_bound_and_gradient(kind, likelihood):
    """The prior's scales are constants in the program, and the gradient is whole all the same."""
    made, x, y = machine(kind, likelihood)
    noises = list(quadrature(16, 2))
    found = expectation(made, (made.model, made.guide), "weights", noises, x, y)
    assert_same(made, found, x, y, 1e-5)


def test_a_minibatch_is_scaled_to_all_data():
    made, x, y = machine(MeanField, BernoulliLikelihood)
    likely = [made.bound(x[i : i + 1], y[i : i + 1], size=5).item() for i in range(5)]
    assert sum(likely) / 5 == pytest.approx(made.bound(x, y).item(), abs=1e-12)


@pytest.mark.parametrize("pair", [("model", "guide"), ("local_model", "local_guide")])
def test_both_pairs_train_by_minibatches_and_particles_side_by_side(pair):
    made, x, y = machine(MeanField, GaussianLikelihood, centres=3)
    before = [p.detach().clone() for p in made.parameters()]
    programs = [getattr(made, name) for name in pair]
    elbo = dsvi.PathwiseELBO(num_particles=3)  # a warning, an error here, if it had to loop
    svi = pyro.infer.SVI(*programs, pyro.optim.Adam({"lr": 0.1}), elbo)
    assert math.isfinite(svi.step(x, y, minibatch=2))
    for old, new in zip(before, made.parameters(), strict=True):
        assert bool((old != new).all())
    assert set(pyro.get_param_store()) == set()


def test_particles_side_by_side_have_the_expectation_of_one():
    made, x, y = machine(MeanField, BernoulliLikelihood, centres=3)
    elbo = dsvi.PathwiseELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    for programs in ((made.model, made.guide), (made.local_model, made.local_guide)):
        found = -elbo.loss(*programs, x, y)
        assert found == pytest.approx(made.bound(x, y).item(), abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_by_draws_is_that_by_the_integral(kind):
    made, x, _ = machine(kind, BernoulliLikelihood, centres=3)
    found = dsvi.predict(made.model, made.guide, x, num_samples=4000, chunk=1000)
    z = (found.mean - made.predictive(x).mean) / found.standard_error[..., 1]
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_rises_to_where_the_gradient_vanishes_and_is_sparse(kind, likelihood):
    x = torch.linspace(-4, 4, 40).unsqueeze(-1)
    noise = 0.1 * torch.randn(40)
    y = x.squeeze(-1).sinc() + noise
    if likelihood is BernoulliLikelihood:
        y = (y > 0).double()
    made = RelevanceVectorMachine(x, likelihood(), kernel=RBF(0.8), relevance=kind)
    fitted = made.fit(x, y, tolerance=1e-6, most_iterations=1000)
    assert fitted.converged
    assert min(np.diff(fitted.bounds)) > -40e-6
    assert fitted.bound == pytest.approx(made.bound(x, y).item(), abs=1e-9)
    assert 1 < len(made.relevance_vectors) < 15
    torch.testing.assert_close(made.relevance_vectors, x[made.relevance_indices])
    steepest = max(float(g.abs().max()) for g in gradient_of(made, made.bound(x, y)).values())
    assert steepest < 0.05


def test_what_is_left_out_is_gone_from_every_form():
    x = torch.linspace(-4, 4, 40).unsqueeze(-1)
    made = RelevanceVectorMachine(x, kernel=RBF(1.0))
    y = (x.squeeze(-1) > 0.3).double()
    made.fit(x, y)
    size = len(made.relevance.loc)
    assert made.basis(x).shape == (40, size)
    assert made.guide(x) is None
    elbo = dsvi.PathwiseELBO()
    assert math.isfinite(elbo.loss(made.model, made.guide, x, y))
    assert bool(((made.predictive(x).mean > 0.5) == (y > 0.5)).all())


def test_single_precision_is_kept():
    torch.set_default_dtype(torch.float32)
    x = torch.linspace(-4, 4, 40).unsqueeze(-1)
    made = RelevanceVectorMachine(x)
    made.fit(x, (x.squeeze(-1) > 0.3).float())
    assert made.relevance.loc.dtype == torch.float32
    assert made.predictive(x).mean.dtype == torch.float32


def test_kernels():
    x, c = torch.randn(3, 2), torch.randn(4, 2)
    inner = torch.einsum("nd,md->nm", x, c) / 2
    square = ((x.unsqueeze(1) - c) ** 2).sum(-1)
    torch.testing.assert_close(Linear()(x, c), inner)
    torch.testing.assert_close(Polynomial(3, 0.5)(x, c), (inner + 0.5) ** 3)
    torch.testing.assert_close(RBF(2.0)(x, c), (-square / 8).exp())
    assert median_distance(torch.tensor([[0.0], [1.0], [5.0]])) == 4.0
    assert median_distance(torch.linspace(0, 1, 5000).unsqueeze(-1)) == pytest.approx(
        0.293, abs=2e-3
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RelevanceVectorMachine(torch.zeros(3)), r"a matrix \[D, d\], got \(3,\)"),
        (lambda: RelevanceVectorMachine(torch.zeros(0, 2)), r"got \(0, 2\)"),
        (lambda: RelevanceVectorMachine(torch.zeros(3, 2)), "most points coincide"),
        (lambda: median_distance(torch.zeros(1, 2)), "two points are needed"),
        (lambda: RBF(0.0), "lengthscale must be positive"),
        (lambda: Polynomial(0), "degree must be at least 1"),
        (
            lambda: RelevanceVectorMachine(torch.randn(3, 2)).fit(torch.randn(3, 2), torch.ones(4)),
            r"got \(3, 2\) and \(4,\)",
        ),
    ],
)
def test_refused(call, words):
    with pytest.raises(InvalidArgument, match=words):
        call()
