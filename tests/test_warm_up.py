"""The warm-up of the divergence, eager and compiled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument


def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", 5, subsample_size=2, subsample=torch.tensor([1, 4])):
        pyro.sample("y", dist.Normal(w.sum(-1, keepdim=True), 1.0), obs=y)


def guide(y):
    loc = pyro.param("loc", torch.tensor([0.3, -0.2, 1.0]))
    log_scale = pyro.param("log_scale", torch.zeros(3))
    pyro.sample("w", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_latents_are_scaled_and_observations_keep_their_weight():
    ramp = dsvi.handlers.warm_up(4)
    ramp.advance()
    trace = poutine.trace(ramp(model)).get_trace(torch.ones(2))
    assert trace.nodes["w"]["scale"] == 0.25
    assert trace.nodes["y"]["scale"] == 2.5
    with poutine.scale(scale=3.0):
        assert poutine.trace(ramp(guide)).get_trace(None).nodes["w"]["scale"] == 0.75


def test_the_factor_goes_up_by_steps_and_stays():
    ramp = dsvi.handlers.warm_up(2, wait=1)
    assert [float(ramp.factor)] + [ramp.advance() for _ in range(4)] == [0, 0, 0.5, 1, 1]
    assert float(ramp.factor) == 1


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_a_compiled_fit_follows_it(analytic_kl):
    """From one seed, step for step; no step may say that it is not compiled."""
    y, losses = torch.ones(2), {}
    for compiled in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        ramp = dsvi.handlers.warm_up(6)
        elbo, optim = dsvi.PathwiseELBO(analytic_kl=analytic_kl), pyro.optim.Adam({"lr": 0.05})
        programs = ramp(model), ramp(guide)
        if compiled:
            elbo.compilation = dsvi.Compilation(backend="recorded")
            svi = dsvi.CompiledSVI(*programs, optim, elbo)
        else:
            svi = pyro.infer.SVI(*programs, optim, elbo)
        losses[compiled] = []
        for _ in range(9):
            losses[compiled].append(svi.step(y))
            ramp.advance()
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.mark.parametrize("arguments", [{"length": 0}, {"length": 5, "wait": -1}])
def test_a_schedule_that_is_none_is_refused(arguments):
    with pytest.raises(InvalidArgument, match="warm_up: length="):
        dsvi.handlers.warm_up(**arguments)
