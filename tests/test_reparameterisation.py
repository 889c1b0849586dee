"""Noise and its map make the law they say, with the pathwise gradient, for every family."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import transforms as T

from pyro_dsvi.handlers.reparameterisation import inside, reparameterisation
from tests.scenarios import f64

A, B = f64([0.4, 1.3]), f64([1.7, 0.6])
UNIVARIATE: dict[str, Callable[[Tensor, Tensor], dist.Distribution]] = {
    "normal": dist.Normal,
    "laplace": dist.Laplace,
    "logistic": dist.Logistic,
    "soft laplace": dist.SoftLaplace,
    "cauchy": dist.Cauchy,
    "uniform": lambda a, b: dist.Uniform(a - b, a + b),
    "exponential": lambda a, b: dist.Exponential(a + b),
    "half normal": lambda a, b: dist.HalfNormal(a + b),
    "half Cauchy": lambda a, b: dist.HalfCauchy(a + b),
    "continuous Bernoulli": lambda a, b: dist.ContinuousBernoulli(logits=a - b),
    "log normal": dist.LogNormal,
    "gumbel": dist.Gumbel,
    "weibull": dist.Weibull,
    "kumaraswamy": dist.Kumaraswamy,
    "pareto": dist.Pareto,
    "decreasing transform": lambda a, b: dist.TransformedDistribution(
        dist.Logistic(a, b), [T.AffineTransform(0.5, -2.0), T.SigmoidTransform()]
    ),
    "masked": lambda a, b: dist.Normal(a, b).mask(torch.tensor([True, False])),
}


def univariate(name: str, a: Tensor = A, b: Tensor = B):
    q = UNIVARIATE[name](a, b)
    law = reparameterisation(q)
    assert law is not None
    return getattr(q, "base_dist", q) if name == "masked" else q, law


def quantiles(law) -> Tensor:
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
    noise = law.of_uniform(u)
    return noise


@pytest.mark.parametrize("name", UNIVARIATE)
def test_inverse_of_the_distribution_function(name):
    """F(g(noise)) is the noise's own quantile, or one less it: the law is exact."""
    q, law = univariate(name)
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64).unsqueeze(-1).expand(-1, 2)
    z = law.value(law.of_uniform(u))
    found = q.cdf(z)
    decreasing = found[0, 0] > found[-1, 0]
    torch.testing.assert_close(found, 1 - u if decreasing else u, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", UNIVARIATE)
def test_mirrored_about_the_median(name):
    q, law = univariate(name)
    noise = quantiles(law)
    there, back = law.value(noise), law.value(law.mirror(noise))
    torch.testing.assert_close(
        q.cdf(there) + q.cdf(back), torch.ones_like(there), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", UNIVARIATE)
def test_gradient_is_the_pathwise_one(name):
    """At fixed noise the quantile stays where it is: dF(g(noise; a, b); a, b) = 0."""
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    q, law = univariate(name, a, b)
    z = law.value(quantiles(law).detach())
    assert z.requires_grad
    for gradient in torch.autograd.grad(q.cdf(z).sum(), (a, b), allow_unused=True):
        if gradient is not None:
            torch.testing.assert_close(gradient, torch.zeros_like(A), rtol=0, atol=1e-9)


def test_a_gradient_that_is_cut_is_seen():
    """The test above can fail: without the path the derivative of F alone is left."""
    a = A.clone().requires_grad_()
    q, law = univariate("laplace", a, B)
    z = law.value(quantiles(law)).detach()
    (gradient,) = torch.autograd.grad(q.cdf(z).sum(), a)
    assert gradient.abs().min() > 1


def covariance() -> Tensor:
    root = torch.randn(2, 3, 3, dtype=torch.float64)
    return root @ root.mT + torch.eye(3, dtype=torch.float64)


GAUSSIAN = {
    "normal": lambda: dist.Normal(A, B),
    "event": lambda: dist.Normal(A, B).to_event(1),
    "multivariate": lambda: dist.MultivariateNormal(torch.zeros(2, 3).double(), covariance()),
    "one matrix": lambda: dist.MultivariateNormal(torch.zeros(4, 3).double(), covariance()[0]),
    "precision": lambda: dist.MultivariateNormal(
        torch.ones(3).double(), precision_matrix=covariance()[0]
    ),
    "flow": lambda: dist.TransformedDistribution(
        dist.Normal(A, B), [T.AffineTransform(1.0, A), T.ExpTransform()]
    ),
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_same_draw_as_rsample_from_the_same_noise(name):
    """Pyro's own draw uses the very same standard normal numbers."""
    q = GAUSSIAN[name]()
    law = reparameterisation(q)
    assert law is not None
    state = torch.get_rng_state()
    theirs = q.rsample()
    torch.set_rng_state(state)
    ours = law.value(law.fresh(law.shape))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_low_rank_gaussian(batch):
    """It draws twice: the factors first, then each coordinate's own noise."""
    q = dist.LowRankMultivariateNormal(
        torch.randn(*batch, 4).double(), torch.randn(*batch, 4, 2).double(), B[0].expand(*batch, 4)
    )
    law = reparameterisation(q)
    assert law is not None
    assert law.shape == (*batch, 6)
    state = torch.get_rng_state()
    theirs = q.rsample()
    torch.set_rng_state(state)
    noise = torch.cat([torch.randn(*batch, n, dtype=torch.float64) for n in (2, 4)], -1)
    torch.testing.assert_close(law.value(noise), theirs, rtol=0, atol=1e-13)


def test_low_rank_covariance_is_exact():
    """G is linear: its matrix times its transpose is the covariance."""
    q = dist.LowRankMultivariateNormal(
        torch.zeros(4).double(), torch.randn(4, 2).double(), torch.rand(4).double() + 0.1
    )
    law = reparameterisation(q)
    assert law is not None
    matrix = law.value(torch.eye(6, dtype=torch.float64)).mT
    torch.testing.assert_close(matrix @ matrix.mT, q.covariance_matrix, rtol=0, atol=1e-13)


RELAXED = {
    "bit": lambda t: dist.RelaxedBernoulli(t, logits=A),
    "one-hot": lambda t: dist.RelaxedOneHotCategorical(t, logits=torch.stack([A, B, -A])),
}


@pytest.mark.parametrize("name", RELAXED)
def test_relaxed_draw_from_the_same_uniform_numbers(name):
    q = RELAXED[name](f64(0.7))
    law = reparameterisation(q)
    assert law is not None
    state = torch.get_rng_state()
    theirs = q.rsample()
    torch.set_rng_state(state)
    noise = inside(torch.rand(law.shape, dtype=torch.float64))
    torch.testing.assert_close(law.value(noise), theirs, rtol=0, atol=1e-12)


def test_shape_follows_expansion_and_plates():
    q = ExpandedDistribution(dist.Laplace(A, B), torch.Size([3, 2]))
    law = reparameterisation(q)
    assert law is not None
    assert law.shape == (3, 2)
    assert law.value(law.fresh(law.shape)).shape == (3, 2)
    q = dist.MultivariateNormal(torch.zeros(3), torch.eye(3)).expand([4, 2])
    law = reparameterisation(q)
    assert law is not None
    assert law.shape == (4, 2, 3)
    assert law.value(law.fresh(law.shape)).dtype == torch.float32


UNCONTROLLED = {
    "gamma": dist.Gamma(A, B),
    "beta": dist.Beta(A, B),
    "dirichlet": dist.Dirichlet(A),
    "student": dist.StudentT(3.0, A, B),
    "inverse gamma": dist.InverseGamma(A, B),
    "gamma inside": dist.TransformedDistribution(dist.Gamma(A, B), [T.ExpTransform()]),
    "folded": dist.FoldedDistribution(dist.Normal(A, B)),
    "folded inside": dist.TransformedDistribution(
        dist.Normal(A, B), [T.ComposeTransform([T.AbsTransform()])]
    ),
    "bit": dist.Bernoulli(logits=A),
    "switched off": dist.Normal(A, B).has_rsample_(False),
    "mixture": dist.MixtureOfDiagNormals(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2)),
}


@pytest.mark.parametrize("name", UNCONTROLLED)
def test_what_has_no_such_map(name):
    assert reparameterisation(UNCONTROLLED[name]) is None


def test_another_way_to_draw_is_not_taken_for_the_family():
    class Normal(dist.Normal):
        def rsample(self, sample_shape=()):
            return super().rsample(sample_shape).round()

        def icdf(self, value):
            raise AssertionError("not asked for where the family is unknown")

    law = reparameterisation(Normal(A, B))
    assert law is not None
    assert law.value.__name__ == "icdf"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_at_the_ends_is_finite(dtype):
    u = torch.tensor([0.0, 1e-300, 1 - 1e-17, 1.0], dtype=torch.float64)
    for name in ("normal", "laplace", "exponential", "logistic", "gumbel"):
        q = UNIVARIATE[name](torch.zeros(4, dtype=dtype), torch.ones(4, dtype=dtype))
        law = reparameterisation(q)
        assert law is not None
        z = law.value(law.of_uniform(u))
        assert z.dtype == dtype
        assert z.isfinite().all(), name
