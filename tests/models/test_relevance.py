"""The KL from the best ARD prior, and the steps of the covariance, against their formulas."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.models import FullRank, MeanField

KINDS = (MeanField, FullRank)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def some(kind, size=4):
    made = kind(size)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return made


def covariance(relevance):
    law = relevance.law()
    if isinstance(relevance, MeanField):
        return law.variance.diag()
    return law.covariance_matrix


def normal(relevance):
    return dist.MultivariateNormal(relevance.loc, covariance(relevance))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_is_the_lowest_over_the_priors_scales(kind):
    relevance = some(kind)
    log_prior = relevance.prior_variances.log().requires_grad_()
    prior = dist.MultivariateNormal(torch.zeros(4), log_prior.exp().diag())
    kl = kl_divergence(normal(relevance), prior)
    torch.testing.assert_close(relevance.kl(), kl, rtol=0, atol=1e-10)
    (slope,) = torch.autograd.grad(kl, log_prior)
    torch.testing.assert_close(slope, torch.zeros(4), rtol=0, atol=1e-10)
    for shift in torch.randn(5, 4):
        other = dist.MultivariateNormal(torch.zeros(4), (log_prior + shift).exp().diag())
        assert bool(kl_divergence(normal(relevance), other) > kl)


def test_independent_weights_have_the_published_form():
    relevance = some(MeanField)
    ratio = relevance.loc**2 / relevance.variances
    torch.testing.assert_close(relevance.kl(), 0.5 * (1 + ratio).log().sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_datum_sees_a_mean_and_a_variance(kind):
    relevance, basis = some(kind), torch.randn(5, 4)
    mean, variance = relevance.moments(basis)
    torch.testing.assert_close(mean, basis @ relevance.loc)
    torch.testing.assert_close(variance, (basis @ covariance(relevance) @ basis.T).diagonal())
    torch.testing.assert_close(relevance.variances, covariance(relevance).diagonal())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_the_marginal(kind):
    relevance, index = some(kind), torch.tensor([0, 2, 3])
    loc, before = relevance.loc[index], covariance(relevance)[index][:, index]
    relevance.keep(index)
    torch.testing.assert_close(relevance.loc.data, loc.data, rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance(relevance), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [1.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_the_covariance_goes_there_in_the_precision(kind, step):
    relevance, basis = some(kind), torch.randn(6, 4)
    curvature, precision = torch.rand(6), torch.rand(4) + 0.1
    best = basis.T @ curvature.diag() @ basis + precision.diag()
    if kind is MeanField:
        best = best.diagonal().diag()
    expected = torch.linalg.inv(step * best + (1 - step) * torch.linalg.inv(covariance(relevance)))
    relevance.match(basis, curvature, precision, step)
    torch.testing.assert_close(covariance(relevance), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "scale"), [(0, 0.1), (3, 0.0), (3, -1.0)])
def test_refused(size, scale):
    with pytest.raises(InvalidArgument, match="size and scale must be positive"):
        MeanField(size, scale=scale)
