"""A matrix normal is the multivariate normal with the Kronecker product for its covariance."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi

_RANDOM = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=_RANDOM, dtype=torch.float64)


def tril(*shape):
    return normal(*shape).tril(-1) + torch.diag_embed(normal(*shape[:-1]).exp())


LAW = dsvi.distributions.MatrixNormal(normal(2, 3, 4), tril(2, 3, 3), tril(4, 4))
COVARIANCE = torch.stack(
    [torch.kron(u @ u.mT, v @ v.mT) for u, v in zip(LAW.row_tril, LAW.column_tril, strict=True)]
)
FULL = dist.MultivariateNormal(LAW.loc.flatten(1), COVARIANCE)


def test_density_entropy_and_moments():
    value = normal(5, 2, 3, 4)
    torch.testing.assert_close(LAW.log_prob(value), FULL.log_prob(value.flatten(2)))
    torch.testing.assert_close(LAW.entropy(), FULL.entropy())
    torch.testing.assert_close(LAW.variance.flatten(1), FULL.variance)
    assert LAW.mean is LAW.loc


def test_draws_are_reparameterised(monkeypatch):
    monkeypatch.setattr(
        torch,
        "randn",
        lambda shape, **options: (
            torch.eye(12, dtype=torch.float64).reshape(12, 1, 3, 4).expand(shape)
        ),
    )
    factor = (LAW.rsample((12,)) - LAW.loc).flatten(2)
    torch.testing.assert_close(torch.einsum("zbi,zbj->bij", factor, factor), COVARIANCE)


def test_divergence_from_independent_weights():
    prior = dist.Normal(normal(3, 4), normal(3, 4).exp())
    flat = dist.MultivariateNormal(prior.loc.flatten(), prior.variance.flatten().diag())
    torch.testing.assert_close(kl_divergence(LAW, prior.to_event(2)), kl_divergence(FULL, flat))


def test_other_divergences_have_no_closed_form():
    with pytest.raises(NotImplementedError):
        kl_divergence(LAW, dist.Laplace(torch.zeros(3, 4), 1.0).to_event(2))


def test_expands_over_a_plate():
    law = LAW.expand((5, 2))
    assert law.shape() == (5, 2, 3, 4)
    torch.testing.assert_close(law.log_prob(LAW.loc)[3], LAW.log_prob(LAW.loc))


def test_refuses_a_factor_that_is_not_triangular():
    with pytest.raises(ValueError, match="row_tril"):
        dsvi.distributions.MatrixNormal(
            normal(3, 4), torch.ones(3, 3, dtype=torch.float64), LAW.column_tril, validate_args=True
        )
