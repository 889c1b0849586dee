"""Improper and shrinking priors: densities against quadrature, closed forms against draws."""

import math
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi
from pyro_dsvi.distributions import (
    ARD,
    Horseshoe,
    LogUniform,
    MultiplicativeNormal,
    SpikeAndSlab,
)
from pyro_dsvi.errors import IncompatibleSite


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.4), (0.3, 0.5), (-2.0, 0.7)])
def test_the_log_uniform_density_and_its_divergence_have_the_same_constant(loc, scale):
    """E_q[log q - log p], with the kink at zero as an end of the interval."""
    q, p = dist.Normal(tensor(loc), tensor(scale)), LogUniform()

    def integrand(w: float) -> float:
        log_q = q.log_prob(tensor(w))
        return (log_q.exp() * (log_q - p.log_prob(tensor(w)))).item()

    low, high = loc - 12 * scale, loc + 12 * scale
    pieces = [integrate.quad(integrand, *ends, epsabs=1e-12) for ends in ((low, 0), (0, high))]
    assert sum(p[0] for p in pieces) == pytest.approx(kl_divergence(q, p).item(), abs=1e-9)


def test_the_log_uniform_prior_does_not_know_the_scale():
    w = tensor(-3.0, 0.2)
    shift = LogUniform().log_prob(7 * w) - LogUniform().log_prob(w)
    torch.testing.assert_close(shift, tensor(-math.log(7), -math.log(7)), atol=1e-14, rtol=0)


@pytest.mark.parametrize("prior", [LogUniform, ARD])
def test_an_improper_prior_expands_and_moves_dimensions_as_others(prior):
    p = prior().expand([4, 3, 2]).to_event(2)
    assert (p.batch_shape, p.event_shape) == ((4,), (3, 2))
    q = dist.Normal(torch.ones(3, 2), torch.ones(3, 2)).expand([4, 3, 2]).to_event(2)
    torch.testing.assert_close(
        kl_divergence(q, p), kl_divergence(dist.Normal(1.0, 1.0), prior()).expand(4) * 6
    )


@pytest.mark.parametrize("prior", [LogUniform, ARD])
def test_an_improper_prior_is_not_sampled(prior):
    with pytest.raises(IncompatibleSite, match=f"{prior.__name__}.*improper"):
        prior().sample()
    with pytest.raises(IncompatibleSite, match="improper"):
        pyro.sample("w", prior().expand([3]).to_event(1))


def test_ard_has_no_density():
    with pytest.raises(IncompatibleSite, match="analytic_kl=True"):
        ARD().log_prob(torch.tensor(1.0))


def test_ard_is_the_best_gaussian_prior():
    q = dist.Normal(tensor(0.7, -0.1), tensor(0.3, 0.9))
    best = dist.Normal(0.0, (q.loc**2 + q.scale**2).sqrt())
    torch.testing.assert_close(kl_divergence(q, ARD()), kl_divergence(q, best), atol=1e-14, rtol=0)
    for factor in (0.99, 1.01):
        other = dist.Normal(0.0, best.scale * factor)
        assert (kl_divergence(q, other) > kl_divergence(q, ARD())).all()
    log_alpha = 2 * (q.scale / q.loc.abs()).log()
    shared = kl_divergence(MultiplicativeNormal(q.loc, log_alpha), ARD())
    torch.testing.assert_close(shared, kl_divergence(q, ARD()), atol=1e-14, rtol=0)


def test_multiplicative_noise_is_a_normal_with_a_scale_that_follows_its_mean():
    loc, log_alpha = tensor(0.5, -3.0, 0.0), tensor(-1.0)
    q = MultiplicativeNormal(loc, log_alpha)
    torch.testing.assert_close(q.scale[:2], (loc.abs() * math.exp(-0.5))[:2])
    assert q.log_prob(loc).isfinite().all()  # a dead weight too
    wide = q.expand([2, 3])
    assert isinstance(wide, MultiplicativeNormal)
    assert wide.batch_shape == (2, 3)
    assert kl_divergence(wide, LogUniform().expand([2, 3])).shape == (2, 3)


def mixture_by_quadrature(w: float, tau: float) -> float:
    """∫ N(w; 0, (λτ)²) C⁺(λ) dλ in log λ."""

    def integrand(t: float) -> float:
        scale = math.exp(t) * tau
        normal = math.exp(-0.5 * (w / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        return normal * 2 / math.pi / (math.exp(t) + math.exp(-t))

    center = math.log(abs(w) / tau)
    ends = np.linspace(center - 4, center + 40, 23)
    return sum(
        integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(ends)
    )


@pytest.mark.parametrize("tau", [0.2, 1.0])
@pytest.mark.parametrize("w", [1e-3, 0.1, -0.5, 1.99, 2.0, 2.01, 30.0])
def test_the_horseshoe_density_is_the_scale_mixture(w, tau):
    found = Horseshoe(tensor(tau)).log_prob(tensor(w)).exp().item()
    assert found == pytest.approx(mixture_by_quadrature(w, tau), rel=1e-10)


def test_the_horseshoe_density_has_its_own_derivative():
    w = torch.tensor([-3.0, 0.01, 0.5, 1.999, 2.001, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Horseshoe(tensor(0.7)).log_prob, w)


def test_a_horseshoe_is_drawn_as_it_is_scored():
    draws = Horseshoe(2.0).sample(torch.Size([40_000])).abs()
    half = integrate.quad(lambda w: 2 * mixture_by_quadrature(w, 2.0), 1e-9, 1.0)[0]
    share = (draws < 1.0).double().mean().item()
    assert abs(share - half) < 4 * math.sqrt(half * (1 - half) / len(draws))
    assert Horseshoe(torch.ones(3)).expand([2, 3]).rsample(torch.Size([5])).shape == (5, 2, 3)


def test_spike_and_slab_is_a_mixture_of_two_normals():
    p = SpikeAndSlab(tensor(0.3), tensor(0.05), tensor(2.0))
    w = tensor(-1.0, 0.0, 0.02, 30.0)
    narrow, broad = dist.Normal(0.0, tensor(0.05)), dist.Normal(0.0, tensor(2.0))
    wanted = torch.logaddexp(math.log(0.7) + narrow.log_prob(w), math.log(0.3) + broad.log_prob(w))
    torch.testing.assert_close(p.log_prob(w), wanted, atol=1e-13, rtol=1e-13)
    assert p.expand([3, 1]).to_event(1).log_prob(torch.ones(3, 1)).shape == (3,)


def test_spike_and_slab_is_drawn_as_it_is_scored():
    draws = SpikeAndSlab(0.3, 0.05, 2.0).sample(torch.Size([40_000]))
    second, fourth = 0.7 * 0.05**2 + 0.3 * 4, 3 * (0.7 * 0.05**4 + 0.3 * 16)
    error = math.sqrt((fourth - second**2) / len(draws))
    assert abs(draws.square().mean().item() - second) < 4 * error


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_is_a_probability(probability):
    with pytest.raises(ValueError, match="probability"):
        SpikeAndSlab(probability, 0.1, 1.0)


@pytest.mark.parametrize("particles", [1, 3])
def test_an_objective_finds_the_closed_form(particles):
    loc = torch.tensor([0.4, -1.0], dtype=torch.float64)

    def model():
        pyro.sample("w", LogUniform().expand([2]).to_event(1))

    def guide():
        pyro.sample("w", dist.Normal(loc, 0.5).to_event(1))

    objective = dsvi.PathwiseELBO(analytic_kl=True, num_particles=particles)
    wanted = kl_divergence(dist.Normal(loc, 0.5), LogUniform()).sum().item()
    assert objective.loss(model, guide) == pytest.approx(wanted, abs=1e-12)
