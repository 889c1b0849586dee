"""The divergence of dropout noise from the log-uniform prior, against quadrature and its limits."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, special
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dsvi.distributions import LogUniform, MultiplicativeNormal, exact, kingma, molchanov
from pyro_dsvi.distributions.dawson import dawson_integral

LOG_ALPHA = torch.linspace(-30, 30, 241, dtype=torch.float64)
EULER = 0.5772156649015329


def with_slope(divergence, log_alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A divergence and its derivative in log alpha."""
    log_alpha = log_alpha.clone().requires_grad_()
    value = divergence((-log_alpha).exp())
    (slope,) = torch.autograd.grad(value.sum(), log_alpha)
    return value.detach(), slope


def by_quadrature(u: float) -> float:
    """2 ∫ D(s) ds; in log s where D falls off slowly."""
    near = integrate.quad(special.dawsn, 0, min(u, 1.0), epsabs=1e-15, epsrel=1e-13)[0]
    far = 0.0
    for start in np.arange(0.0, math.log(max(u, 1.0)), 1.0):
        stop = min(start + 1.0, math.log(u))
        far += integrate.quad(
            lambda t: math.exp(t) * special.dawsn(math.exp(t)), start, stop, epsrel=1e-13
        )[0]
    return 2 * (near + far)


def test_the_divergence_is_the_integral_of_dawsons_function():
    u = np.exp(-0.5 * LOG_ALPHA.numpy()) / math.sqrt(2)
    wanted = torch.tensor([by_quadrature(float(x)) for x in u], dtype=torch.float64)
    found, _ = with_slope(exact, LOG_ALPHA)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_its_slope_is_that_of_the_literature():
    u = np.exp(-0.5 * LOG_ALPHA.numpy()) / math.sqrt(2)
    _, found = with_slope(exact, LOG_ALPHA)
    torch.testing.assert_close(found, torch.tensor(-u * special.dawsn(u)), atol=0, rtol=1e-12)


def test_it_falls_strictly_to_zero_as_noise_grows():
    value, slope = with_slope(exact, LOG_ALPHA)
    assert (slope < 0).all()
    assert (value.diff() < 0).all()
    assert (value > 0).all()
    assert exact(torch.tensor(0.0)) == 0
    assert exact(torch.tensor(torch.inf)) == torch.inf


def test_its_limits():
    small_noise, large_noise = (torch.tensor(x, dtype=torch.float64) for x in (1e12, 1e-9))
    straight = 0.5 * (EULER + math.log(2) + small_noise.log())
    torch.testing.assert_close(exact(small_noise), straight, atol=1e-11, rtol=0)
    # to first order one half of 1/alpha, kept to full relative precision
    torch.testing.assert_close(exact(large_noise), 0.5 * large_noise, atol=0, rtol=1e-9)


def test_it_is_half_a_difference_of_expected_logarithms_of_chi_squares():
    """By a Poisson mixture of digammas: no Dawson function in it."""
    half = torch.tensor([0.01, 0.5, 3.0, 40.0], dtype=torch.float64)
    j = torch.arange(0, 400, dtype=torch.float64)
    log_weights = j * half.log()[:, None] - half[:, None] - torch.lgamma(j + 1)
    digammas = torch.digamma(j + 0.5) - torch.digamma(torch.tensor(0.5, dtype=torch.float64))
    wanted = 0.5 * (log_weights.exp() * digammas).sum(-1)
    torch.testing.assert_close(exact(2 * half), wanted, atol=1e-12, rtol=1e-12)


def test_it_is_twice_differentiable_also_at_zero():
    z = torch.tensor([0.0, 0.3, 7.0, 900.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dawson_integral, z[1:])
    assert torch.autograd.gradgradcheck(dawson_integral, z[1:])
    (slope,) = torch.autograd.grad(dawson_integral(z).sum(), z, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), z)
    assert slope[0].item() == pytest.approx(1.0, abs=1e-14)
    assert curvature[0].item() == pytest.approx(-2 / 3, abs=1e-13)


def test_single_precision_keeps_its_relative_precision():
    value, slope = with_slope(exact, LOG_ALPHA)
    value32, slope32 = with_slope(lambda s: exact(s.float()), LOG_ALPHA)
    assert value32.dtype == torch.float32
    torch.testing.assert_close(value32.double(), value, atol=0, rtol=5e-7)
    torch.testing.assert_close(slope32, slope, atol=0, rtol=1e-6)


def test_it_is_recorded_and_vectorised_as_any_torch_operation():
    z = torch.rand(5, dtype=torch.float64)

    def slope(z: torch.Tensor) -> torch.Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(dawson_integral(z).sum(), z)[0]

    recorded = make_fx(slope)(torch.rand(5, dtype=torch.float64))
    torch.testing.assert_close(recorded(z), slope(z), atol=0, rtol=0)
    mapped = torch.func.vmap(torch.func.grad(dawson_integral))(z)
    torch.testing.assert_close(mapped, slope(z), atol=1e-15, rtol=1e-15)


@pytest.mark.cuda
def test_it_is_the_same_on_a_gpu():
    found = exact((-LOG_ALPHA).exp().cuda()).cpu()
    torch.testing.assert_close(found, exact((-LOG_ALPHA).exp()), atol=0, rtol=1e-14)


def largest_errors(divergence, log_alpha: torch.Tensor) -> tuple[float, float]:
    pairs = zip(with_slope(divergence, log_alpha), with_slope(exact, log_alpha), strict=True)
    value, slope = ((found - wanted).abs().max().item() for found, wanted in pairs)
    return value, slope


def test_molchanovs_fit_is_as_wrong_as_its_docstring_says():
    grid = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    value, slope = largest_errors(molchanov, grid)
    assert 0.0093 < value <= 0.0094
    assert 0.0136 < slope <= 0.0137


def test_kingmas_cubic_is_as_wrong_as_its_docstring_says():
    value, _ = largest_errors(kingma, torch.linspace(-30, 0, 300_001, dtype=torch.float64))
    assert 0.0403 < value <= 0.0404
    value, _ = largest_errors(kingma, torch.linspace(0, 30, 300_001, dtype=torch.float64))
    assert 0.38 < value <= 0.39
    _, beyond = with_slope(kingma, torch.linspace(0.001, 30, 1001, dtype=torch.float64))
    assert (beyond == 0).all()


@pytest.mark.parametrize("divergence", [exact, molchanov, kingma])
def test_dead_and_noiseless_weights_give_no_nan(divergence):
    for s in (0.0, 1e-30, 1e30):
        s = torch.tensor(s, requires_grad=True)
        value = divergence(s)
        value.backward()
        assert value.isfinite()
        assert s.grad is not None
        assert s.grad.isfinite()


@pytest.mark.parametrize("divergence", [exact, molchanov, kingma])
def test_the_registered_divergence_is_the_one_asked_for(divergence):
    loc = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64)
    scale = torch.tensor([0.5, 0.2, 7.0], dtype=torch.float64)
    found = kl_divergence(dist.Normal(loc, scale), LogUniform(divergence))
    torch.testing.assert_close(found, divergence((loc / scale) ** 2), atol=0, rtol=0)
    log_alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    shared = kl_divergence(MultiplicativeNormal(loc, log_alpha), LogUniform(divergence))
    assert shared.shape == (3,)
    torch.testing.assert_close(shared, divergence((-log_alpha).exp()).expand(3), atol=0, rtol=0)
