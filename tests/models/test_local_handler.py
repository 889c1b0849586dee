"""The handler and the machine's own local form are two ways to the same gradient."""

import math

import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.models import RBF, RelevanceVectorMachine

DRAWS = 150


def test_the_weights_program_under_the_handler_is_the_local_form():
    """Unbiased for the integrated bound, and of the local form's variance, below the weights'."""
    torch.set_default_dtype(torch.float64)
    x, y = torch.randn(6, 2), (torch.rand(6) < 0.5).double()
    machine = RelevanceVectorMachine(x, kernel=RBF(1.0))
    parameters = list(machine.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    elbo = dsvi.PathwiseELBO(analytic_kl=True)

    def draws(model, guide):
        rows = []
        for _ in range(DRAWS):
            machine.zero_grad()
            elbo.loss_and_grads(model, guide, x, y)
            grads = [p.grad.flatten() for p in parameters if p.grad is not None]
            rows.append(torch.cat(grads))
        return torch.stack(rows)

    exact = torch.autograd.grad(-machine.bound(x, y), parameters)
    with dsvi.handlers.local_reparameterization():
        handled = draws(machine.model, machine.guide)
    error = handled.std(0) / math.sqrt(DRAWS)
    z = (handled.mean(0) - torch.cat([g.flatten() for g in exact])) / error.clamp_min(1e-12)
    assert float(z.abs().max()) < 4
    local = draws(machine.local_model, machine.local_guide).var(0).sum()
    weights = draws(machine.model, machine.guide).var(0).sum()
    assert float(handled.var(0).sum() / local) == pytest.approx(1, abs=0.35)
    assert float(handled.var(0).sum()) < 0.7 * float(weights)
