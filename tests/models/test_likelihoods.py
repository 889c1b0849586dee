"""Expectations over one Gaussian number, against sums on a fine grid and against autograd."""

import math

import pytest
import torch

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.models import BernoulliLikelihood, GaussianLikelihood

MEAN = torch.tensor([-3.0, 0.2, 1.0, 4.0], dtype=torch.float64)
VARIANCE = torch.tensor([0.1, 1.0, 4.0, 0.5], dtype=torch.float64)
CLASSES = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
MADE = (lambda: BernoulliLikelihood(64).double(), lambda: GaussianLikelihood(0.7).double())


def on_a_grid(function):
    """E function(f) by the trapezoid rule, which converges faster than any power here."""
    noise = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    weight = (-0.5 * noise**2).exp() / math.sqrt(2 * math.pi) * (noise[1] - noise[0])
    f = MEAN.unsqueeze(-1) + VARIANCE.sqrt().unsqueeze(-1) * noise
    return function(f) @ weight


@pytest.mark.parametrize("make", MADE)
def test_the_expected_log_likelihood(make):
    likelihood = make()
    found = likelihood.expected_log_prob(MEAN, VARIANCE, CLASSES)
    exact = on_a_grid(lambda f: likelihood.law(f).log_prob(CLASSES.unsqueeze(-1)))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", MADE)
def test_slope_and_curvature_are_derivatives_of_the_expectation(make):
    likelihood = make()
    mean, variance = MEAN.clone().requires_grad_(), VARIANCE.clone().requires_grad_()
    total = likelihood.expected_log_prob(mean, variance, CLASSES).sum()
    by_mean, by_variance = torch.autograd.grad(total, (mean, variance))
    slope, curvature = likelihood.slope_and_curvature(MEAN, VARIANCE, CLASSES)
    torch.testing.assert_close(slope, by_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(curvature, -2 * by_variance, rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", MADE)
def test_the_predictive_law_has_f_integrated_out(make):
    likelihood = make()
    found = likelihood.predictive(MEAN, VARIANCE).log_prob(CLASSES).exp()
    exact = on_a_grid(lambda f: likelihood.law(f).log_prob(CLASSES.unsqueeze(-1)).exp())
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_the_noise_is_learnt_where_the_expectation_is_highest():
    likelihood = GaussianLikelihood(3.0).double()
    likelihood.learn(MEAN, VARIANCE, CLASSES)
    total = likelihood.expected_log_prob(MEAN, VARIANCE, CLASSES).sum()
    (slope,) = torch.autograd.grad(total, likelihood.log_noise)
    assert slope.item() == pytest.approx(0, abs=1e-10)


def test_refused():
    with pytest.raises(InvalidArgument, match="noise must be positive"):
        GaussianLikelihood(0.0)
    with pytest.raises(InvalidArgument, match="nodes must be at least 1"):
        BernoulliLikelihood(0)
