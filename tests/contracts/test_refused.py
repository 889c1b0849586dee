"""Which combinations are not offered: each is refused by name, before anything is drawn."""

import pyro
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch
from tests.contracts.cases import AMONG_PARTICLES, BASELINES, BOUNDS, ONE, Case
from tests.scenarios import SCENARIOS


def program(name: str):
    """Model and guide of a scenario whose parameters are in the store; nothing may be drawn."""
    scenario = SCENARIOS[name]
    for key, value in scenario.parameters().items():
        pyro.param(key, value.detach())
    return scenario.model, scenario.guide


@pytest.fixture(autouse=True)
def nothing_drawn(_own_random_state):
    """A refusal comes before the first random number."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("baseline", AMONG_PARTICLES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_leave_one_out_with_one_particle(bound, baseline, frozen):
    with pytest.raises(InvalidArgument, match=r"'b0'.* at least 2 particles, got num_particles=1"):
        Case("pair", bound, baseline, ONE, frozen).objective()


@pytest.mark.parametrize("baseline", AMONG_PARTICLES)
def test_leave_one_out_with_one_particle_asked_for_by_the_site(baseline):
    estimator = dsvi.ScoreFunction(BASELINES[baseline]())

    def guide():
        infer = {"estimator": estimator}
        pyro.sample("b", pyro.distributions.Bernoulli(logits=pyro.param("eta")), infer=infer)

    model, _ = program("single")
    with pytest.raises(IncompatibleSite, match=r"'b'.* at least 2 particles"):
        dsvi.Objective(dsvi.bounds.Evidence()).loss(model, guide)


def test_vimco_with_one_particle():
    with pytest.raises(InvalidArgument, match=r"VIMCO: num_particles .* at least 2, got 1"):
        dsvi.VIMCO(1)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bound", BOUNDS)
def test_pathwise_through_a_bit(bound, frozen):
    objective = dsvi.Objective(BOUNDS[bound][0], frozen=frozen, estimators={"b": dsvi.Pathwise()})
    with pytest.raises(IncompatibleSite, match=r"'b'.*Bernoulli has no rsample"):
        objective.loss_and_grads(*program("single"))


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_and_live_sites_mixed(frozen):
    objective = dsvi.Objective(dsvi.bounds.IWAE(), num_particles=2, frozen=frozen)

    def guide():
        infer = {"frozen": not frozen}
        pyro.sample("b", pyro.distributions.Bernoulli(logits=pyro.param("eta")), infer=infer)

    model, _ = program("single")
    with pytest.raises(IncompatibleSite, match=r"'b'.*mix of frozen and live sites is biased"):
        objective.loss_and_grads(model, guide)


@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "evidence"])
def test_closed_forms_under_a_bound_that_is_not_additive(bound):
    with pytest.raises(InvalidArgument, match="analytic_kl needs an additive bound"):
        dsvi.Objective(BOUNDS[bound][0], analytic_kl=True)


@pytest.mark.parametrize("alpha", [1.0, float("inf"), float("nan")])
def test_renyi_of_no_order(alpha):
    with pytest.raises(InvalidArgument, match="alpha"):
        dsvi.bounds.Renyi(alpha)


def test_estimator_of_a_site_that_is_not_there():
    """Known from the first step, which has to draw."""
    case = Case("pair", "evidence", "none")
    refused = pytest.raises(SiteMismatch, match=r"no latent site \['b0', 'b1'\]; it has \['b'\]")
    with torch.random.fork_rng(), refused:
        case.objective().loss_and_grads(*program("single"))
