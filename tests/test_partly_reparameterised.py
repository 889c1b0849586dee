"""A distribution whose ``rsample`` leaves a part of the gradient to a score keeps both its parts.

There is no way to visit every draw of a rejection sampler, so these are z-scores at a fixed seed.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.rejection_gamma import RejectionGamma, ShapeAugmentedGamma
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi
from pyro_dsvi.estimators.law import is_partly_reparameterised

SIZE = 400
LAWS: dict[str, Callable[[Tensor, Tensor], dist.Distribution]] = {
    "rejection": RejectionGamma,
    "shape augmented": ShapeAugmentedGamma,
    "masked": lambda a, b: RejectionGamma(a, b).mask(torch.tensor(True)),
    "event": lambda a, b: RejectionGamma(a.expand(2), b).to_event(1),
}


def z_score(law: str, objective: dsvi.Objective) -> float:
    """How far the mean of 500 gradients lies from that of the divergence, in standard errors."""
    torch.set_default_dtype(torch.float64)
    shape = torch.tensor(1.05, requires_grad=True)
    rate = torch.tensor(1.0)
    copies = 2 if law == "event" else 1
    prior = dist.Gamma(torch.tensor(2.5), torch.tensor(1.3))
    prior = prior.expand([2]).to_event(1) if law == "event" else prior

    def model():
        with pyro.plate("n", SIZE):
            pyro.sample("z", prior)

    def guide():
        q = LAWS[law](shape, rate)
        with pyro.plate("n", SIZE):
            pyro.sample("z", q)

    exact = SIZE * copies * kl_divergence(dist.Gamma(shape, rate), dist.Gamma(2.5, 1.3))
    (truth,) = torch.autograd.grad(exact, shape)
    draws = torch.stack(
        [
            torch.autograd.grad(objective.differentiable_loss(model, guide), shape)[0]
            for _ in range(500)
        ]
    )
    error = draws.std() / len(draws) ** 0.5
    return float((draws.mean() - truth) / error)


@pytest.mark.parametrize("law", LAWS)
def test_both_parts_count(law):
    assert is_partly_reparameterised(LAWS[law](torch.tensor(1.7), torch.tensor(1.0)))
    assert abs(z_score(law, dsvi.PathwiseELBO())) < 4


def test_frozen_densities_keep_both_parts():
    assert abs(z_score("rejection", dsvi.STL())) < 4


def test_the_path_alone_is_biased(monkeypatch):
    """The tests above can fail: without the score part the same measure is far off."""
    from pyro_dsvi.estimators import pathwise

    monkeypatch.setattr(pathwise, "is_partly_reparameterised", lambda q: False)
    assert abs(z_score("rejection", dsvi.PathwiseELBO())) > 8


def test_an_ordinary_distribution_asks_for_no_credit():
    assert not is_partly_reparameterised(dist.Gamma(2.0, 1.0).to_event(0).mask(True))
