"""Divergences in few operations are those of torch, gradients included."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_dsvi.graph.divergence import divergence
from tests.lazy.test_layers import normal

LOC, SCALE = normal(4, 3), 0.1 + normal(4, 3).abs()
PRIORS = {
    "one width": (torch.zeros(4, 3, dtype=torch.float64), 0.7),
    "a mean of its own": (normal(4, 3), 0.7),
    "widths of their own": (normal(4, 3), 0.1 + normal(4, 3).abs()),
    "learnt": (
        normal(4, 3).requires_grad_(),
        torch.tensor(0.7, dtype=torch.float64).requires_grad_(),
    ),
}


@pytest.mark.parametrize("batch", [(), (5, 1), (4,)], ids=str)
@pytest.mark.parametrize("name", PRIORS)
def test_the_divergence_is_torchs(name, batch):
    loc, scale = LOC.clone().requires_grad_(), SCALE.clone().requires_grad_()
    q, p = dist.Normal(loc, scale), dist.Normal(*PRIORS[name])
    if batch == (4,):
        q, p = q.to_event(1), p.to_event(1)
    else:
        q, p = q.expand((*batch, 4, 3)).to_event(2), p.expand((*batch, 4, 3)).to_event(2)
    ours, theirs = divergence(q, p), kl_divergence(q, p)
    assert ours.shape == theirs.shape == batch
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.arange(1.0, 1 + ours.numel(), dtype=torch.float64).reshape(batch)
    leaves = [loc, scale, *(x for x in PRIORS[name] if getattr(x, "requires_grad", False))]
    pairs = (torch.autograd.grad((x * weights).sum(), leaves) for x in (ours, theirs))
    for mine, other in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_other_laws_are_left_to_torch():
    q, p = dist.Gamma(2.0, 1.0), dist.Gamma(1.0, 3.0)
    torch.testing.assert_close(divergence(q, p), kl_divergence(q, p))
    with pytest.raises(NotImplementedError):
        divergence(dist.Normal(0.0, 1.0), dist.StudentT(3.0))
