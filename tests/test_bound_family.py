"""Bounds between the ELBO and log p(x), by their formulas, and what a guide may follow instead."""

import itertools
import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import (
    CIWAE,
    CUBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    TVO,
    Apart,
    Bound,
    Covariance,
    Evidence,
    LogUniform,
    Moments,
    Points,
    Renyi,
    Rule,
    TailAdaptive,
    TailWeights,
    WakePhi,
)
from pyro_dsvi.bounds.pursuit import diagonal
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.graph.sides import sides
from tests.oracles import Force

NODES = Points((0.1, 0.4))
BOUNDS = [
    MIWAE(2, 3),
    MIWAE(6, 1),
    MIWAE(1, 6),
    PIWAE(3, 2),
    CIWAE(0.0),
    CIWAE(0.3),
    CIWAE(1.0),
    CUBO(2.0),
    CUBO(2.0).guide,
    Renyi(0.5),
    Evidence(),
    *(TVO(NODES, rule) for rule in Rule),
    TVO(Moments(3)),
    Apart(IWAE(), MIWAE(2, 3)),
]
LIKE_PARTICLES = [b for b in BOUNDS if not isinstance(b, MIWAE)]
WEIGHTINGS = [
    WakePhi(),
    WakePhi(0.3),
    *(Covariance(TVO(NODES, rule)) for rule in Rule),
    Covariance(TVO(Points())),
]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


@pytest.fixture(params=[(6,), (6, 3)], ids=str)
def log_w(request) -> Tensor:
    return 2 * torch.randn(request.param)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# -- defaults, and what is written -----------------------------------------------------------------


@pytest.mark.parametrize("bound", BOUNDS, ids=repr)
def test_derivatives_are_those_of_the_value(bound, log_w):
    slope = Bound.slope(bound, log_w)
    curvature = diagonal(bound._differentiable_slope, log_w)
    close(bound.slope(log_w), slope)
    close(bound.curvature(log_w), curvature, 1e-9)
    close(bound.gain(log_w), 1 - curvature / slope, 1e-8)
    close(bound.density(log_w), slope)
    close(bound.path(log_w), slope)
    close(bound.path(log_w, 0.7), slope - 0.7 * curvature, 1e-9)


@pytest.mark.parametrize("bound", BOUNDS, ids=repr)
def test_one_is_left_out_by_the_mean_of_the_others(bound, log_w):
    close(bound.leave_one_out(log_w), Bound.leave_one_out(bound, log_w), 1e-11)


@pytest.mark.parametrize("bound", [b for b in BOUNDS if b not in (CUBO(2.0).guide,)], ids=repr)
def test_a_constant_passes_through(bound, log_w):
    close(bound.value(log_w + 3.7) - 3.7, bound.value(log_w), 1e-9)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_slopes_of_weights(weighting, log_w):
    close(weighting.weight_slope(log_w), diagonal(weighting.weight, log_w))
    close(weighting.density(log_w), -weighting.weight(log_w))
    close(weighting.path(log_w, 0.4), 0.4 * weighting.weight_slope(log_w))


def test_a_weighting_of_ones_own_needs_its_weights_only(log_w):
    @dataclass(frozen=True)
    class Squared(dsvi.bounds.Weighting):
        def weight(self, log_w: Tensor) -> Tensor:
            return torch.softmax(log_w, 0) ** 2

    share = torch.softmax(log_w, 0)
    close(Squared().weight_slope(log_w), 2 * share**2 * (1 - share))


# -- formulas --------------------------------------------------------------------------------------


def test_values_by_their_formulas():
    w = torch.tensor([0.2, 1.5, 3.0, 0.4])
    log_w = w.log()
    pairs = (((0.2 + 1.5) / 2) ** 0.5) * (((3.0 + 0.4) / 2) ** 0.5)
    close(MIWAE(2, 2).value(log_w), torch.tensor(pairs).log())
    close(PIWAE(2, 2).value(log_w), w.mean().log())
    close(PIWAE(2, 2).guide.value(log_w), torch.tensor(pairs).log())
    close(CIWAE(0.3).value(log_w), 0.3 * log_w.mean() + 0.7 * w.mean().log())
    close(CUBO(3.0).value(log_w), (w**3).mean().log() / 3)
    close(CUBO(3.0).guide.value(log_w), -(w**3).mean().log() / 3)
    half = (w.sqrt() * log_w).sum() / w.sqrt().sum()
    ends = log_w.mean(), (w * log_w).sum() / w.sum()
    close(TVO(Points((0.5,)), Rule.LEFT).value(log_w), (ends[0] + half) / 2)
    close(TVO(Points((0.5,)), Rule.RIGHT).value(log_w), (half + ends[1]) / 2)
    close(TVO(Points((0.5,)), Rule.TRAPEZOID).value(log_w), (ends[0] + 2 * half + ends[1]) / 4)
    assert RWS().value(log_w) == TailAdaptive().value(log_w) == IWAE().value(log_w)


def test_limits(log_w):
    close(MIWAE(6, 1).value(log_w), Evidence().value(log_w))
    close(MIWAE(1, 6).value(log_w), IWAE().value(log_w))
    close(TVO(LogUniform(1)).value(log_w), Evidence().value(log_w))
    close(CIWAE(1.0).value(log_w), Evidence().value(log_w))
    close(CUBO(1.0).value(log_w), IWAE().value(log_w))
    dense = TVO(LogUniform(4000, first=1e-3), Rule.TRAPEZOID)
    close(dense.value(log_w), IWAE().value(log_w), 1e-4)


def test_doubly_reparameterised_weights_of_the_wake_phase(log_w):
    share = torch.softmax(log_w, 0)
    close(WakePhi().path(log_w, 1.0), share * (1 - share))


@pytest.mark.parametrize("partition", [NODES, LogUniform(5, 0.02), Moments(4)], ids=repr)
def test_riemann_sums_enclose_iwae_draw_by_draw(partition):
    """The integrand rises, and its integral is IWAE's bound of the same log weights."""
    log_w = 5 * torch.randn(7, 500)
    left, right = (TVO(partition, rule).value(log_w) for rule in (Rule.LEFT, Rule.RIGHT))
    iwae = IWAE().value(log_w)
    assert (Evidence().value(log_w) <= left + 1e-9).all()
    assert (left <= iwae + 1e-9).all()
    assert (iwae <= right + 1e-9).all()


def test_the_order_of_the_family_draw_by_draw():
    log_w = 5 * torch.randn(6, 500)
    values = [b.value(log_w) for b in (Evidence(), MIWAE(3, 2), IWAE(), CUBO(2.0))]
    for low, high in itertools.pairwise(values):
        assert (low <= high + 1e-9).all()
    assert (values[0] <= CIWAE(0.4).value(log_w)).all()
    assert (CIWAE(0.4).value(log_w) <= values[2]).all()


# -- partitions ------------------------------------------------------------------------------------


def test_adaptive_nodes_raise_the_integrand_evenly(log_w):
    nodes = Moments(5).nodes(log_w)
    share = torch.softmax(nodes.unsqueeze(1) * log_w, 1)
    steps = (share * log_w).sum(1).diff(dim=0)
    close(steps, steps.mean(0).expand_as(steps), 1e-10)
    assert nodes.shape == (6, *log_w.shape[1:])


def test_adaptive_nodes_are_differentiated():
    """The nodes are functions of the log weights: first and second derivatives know it."""
    bound = TVO(Moments(3))
    log_w = torch.tensor([0.3, -1.4, 2.1, 0.9], requires_grad=True)
    assert torch.autograd.gradcheck(bound.value, (log_w,), eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(bound.value, (log_w,), eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_nodes_of_log_weights_alike(spread, dtype):
    log_w = torch.tensor([1.0, 1.0 + spread, 1.0], dtype=dtype, requires_grad=True)
    close(Moments(4).nodes(log_w.detach()), torch.linspace(0, 1, 5, dtype=dtype), 1e-6)
    value = TVO(Moments(4)).value(log_w)
    value.backward()
    assert log_w.grad is not None
    close(log_w.grad, torch.full((3,), 1 / 3, dtype=dtype), 1e-6)


@pytest.mark.parametrize("partition", [LogUniform(4), Moments(4)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_weights_far_apart(partition, dtype):
    log_w = torch.tensor([-1e4, -2.0, -3.0, -1e3], dtype=dtype)
    for rule in Rule:
        bound = TVO(partition, rule)
        for name in ("value", "slope", "path", "density"):
            assert getattr(bound, name)(log_w).isfinite().all(), (rule, name)
        assert bound.path(log_w, 1.0).isfinite().all()


def test_an_impossible_particle_under_the_right_rule():
    log_w = torch.tensor([-math.inf, 0.3, -1.2])
    bound = TVO(NODES, Rule.RIGHT)
    possible = torch.cat([torch.tensor([-1e6]), log_w[1:]])
    close(bound.value(log_w), bound.value(possible))
    slope = bound.slope(log_w)
    assert slope[0] == 0
    close(slope, bound.slope(possible))
    close(bound.path(log_w, 1.0), bound.path(possible, 1.0))
    assert TVO(NODES, Rule.LEFT).value(log_w) == -math.inf  # as the ELBO is


# -- ranks -----------------------------------------------------------------------------------------


def test_tail_weights_by_counting():
    log_w = torch.randn(9, 4).round(decimals=1)  # with ties
    tail = (log_w.unsqueeze(0) >= log_w.unsqueeze(1)).double().mean(1)
    for beta in (-1.0, -0.5, 0.0, 2.0):
        expected = tail**beta / (tail**beta).sum(0)
        close(TailWeights(beta).weight_slope(log_w), expected)


def test_the_heaviest_draw_counts_most():
    """Argsort is not a rank: here it would give the least weight to the heaviest draw."""
    log_w = torch.tensor([0.0, 3.0, 1.0, 2.0])
    gamma = TailWeights().weight_slope(log_w)
    assert gamma.argsort().tolist() == log_w.argsort().tolist()
    close(gamma, torch.tensor([3.0, 12.0, 4.0, 6.0]) / 25)


# -- the two sides, and weights that underflow -----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_models_weight_that_underflows_leaves_the_guides_path(dtype, frozen):
    """IWAE gives the first group no weight at all, and MIWAE half of it."""
    log_w = torch.tensor([-5000.0, -5001.0, 0.0, 1.0], dtype=dtype)
    bound = PIWAE(2, 2)
    assert (IWAE().slope(log_w)[:2] == 0).all()
    found = sides(bound, log_w, frozen)
    gate = found.frozen if frozen else found.live
    path = MIWAE(2, 2).path(log_w, 1.0 if frozen else 0.0)
    torch.testing.assert_close(found.model * gate, path, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.model, IWAE().slope(log_w), rtol=1e-7, atol=1e-18)
    assert gate.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_path_so_weak_that_its_share_underflows(dtype, frozen):
    """The model gives the first particle no weight, the guide next to none: no gate is infinite."""
    log_tiny = math.log(torch.finfo(dtype).tiny)
    for behind in (0.4, 0.6, 0.8, 1.0, 1.1):
        log_w = torch.tensor([behind * log_tiny, 0.0, -2 * log_tiny, 0.0], dtype=dtype)
        found = sides(PIWAE(2, 2), log_w, frozen)
        gate = found.frozen if frozen else found.live
        path = MIWAE(2, 2).path(log_w, 1.0 if frozen else 0.0)
        assert gate.isfinite().all()
        torch.testing.assert_close(found.model * gate, path, rtol=1e-4, atol=0)
        assert found.model[0] < 1e-30


def gradient_far_apart(objective: dsvi.Objective) -> Tensor:
    """In float32, the gradient of the guide's location, one particle 5000 nats behind the other."""
    torch.set_default_dtype(torch.float32)

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.01), obs=torch.tensor(0.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    pyro.clear_param_store()
    pyro.param("loc", torch.tensor(0.0))
    with Force([{"z": torch.tensor([1.0, 0.01])}]):
        objective.loss_and_grads(model, guide)
    return pyro.param("loc").grad


TWO = {"vectorize_particles": True, "max_plate_nesting": 0}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_through_such_a_gate(frozen):
    """The guide's ELBO hears in full of a particle that the model's IWAE does not."""
    elbo = dsvi.PathwiseELBO(num_particles=2, frozen=frozen, **TWO)
    expected = gradient_far_apart(elbo)
    assert expected > 5000
    piwae = dsvi.PIWAE(2, 1, frozen=frozen, **TWO)
    torch.testing.assert_close(gradient_far_apart(piwae), expected)
    assert gradient_far_apart(dsvi.IWAE(2, frozen=frozen, **TWO)).abs() < 200


def test_a_particle_without_slope_has_no_gain():
    """Under the right rule its slope and curvature are both zero, and their quotient nothing."""
    right = dsvi.TVO(2, partition=LogUniform(3), rule=Rule.RIGHT, frozen=True, **TWO)
    dreg = dsvi.DReG(2, **TWO)
    torch.testing.assert_close(gradient_far_apart(right), gradient_far_apart(dreg))


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: MIWAE(0, 2), "m must be a whole number of at least 1, got 0"),
        (lambda: PIWAE(2, 1.5), "k must be a whole number of at least 1, got 1.5"),
        (lambda: CIWAE(1.2), r"beta must be in \[0, 1\]"),
        (lambda: CUBO(0.5), "n must be a finite number of at least 1"),
        (lambda: WakePhi(2.0), r"share must be in \[0, 1\]"),
        (lambda: RWS(-1.0), r"share must be in \[0, 1\]"),
        (lambda: TailAdaptive(math.nan), "beta must be finite"),
        (lambda: Points((0.5, 0.2)), "betas must rise"),
        (lambda: Points((0.0, 0.2)), "lie between 0 and 1"),
        (lambda: LogUniform(0), "intervals must be a whole number"),
        (lambda: LogUniform(3, 1.0), r"first must be in \(0, 1\)"),
        (lambda: Moments(1.5), "intervals must be a whole number"),
        (lambda: TVO((0.1, 0.5)), r"partition: got .*LogUniform"),
        (lambda: TVO(rule="left"), "rule: got 'left'.*Rule.LEFT"),
        (lambda: Apart(IWAE(), 3), "follows: expected a bound, got 3"),
        (lambda: Apart(MIWAE(2, 2), MIWAE(3, 2)), "4 and 6"),
        (lambda: TailWeights().weight(torch.zeros(2)), "only of paths"),
        (lambda: MIWAE(2, 2).value(torch.zeros(5)), "need 4 particles, got 5"),
        (lambda: dsvi.Objective(MIWAE(2, 3)), "made for 6 particles, got num_particles=1"),
        (lambda: dsvi.Objective(TailAdaptive(), num_particles=4), "pass frozen=True"),
    ],
)
def test_arguments_that_cannot_work(make, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        make()


def model():
    pyro.sample("b", dist.Bernoulli(0.5))
    pyro.sample("z", dist.Normal(0.0, 1.0))


def guide():
    pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", torch.tensor(0.0))))
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (lambda: dsvi.TailAdaptive(2), r"'b': ScoreFunction under TailWeights: .*Pathwise\(\)"),
        (
            lambda: dsvi.RWS(2, estimators={"z": dsvi.Pathwise()}),
            r"'z': Pathwise: WakePhi weighs densities.*frozen=True",
        ),
        (
            lambda: dsvi.RWS(2, estimators={"b": dsvi.ARM()}),
            r"'b': ARM under WakePhi: .*no credit to send back; use .*ScoreFunction\(\)",
        ),
        (
            lambda: dsvi.RWS(2, estimators={"b": dsvi.ScoreFunction(dsvi.LeaveOneOut())}),
            "'b': ScoreFunction under WakePhi",
        ),
    ],
)
def test_sites_that_cannot_be_served(objective, complaint):
    with pytest.raises(IncompatibleSite, match=complaint):
        objective().loss_and_grads(model, guide)


def test_a_point_mass_has_no_density_to_weigh():
    def point():
        pyro.sample("b", dist.Bernoulli(0.5))
        pyro.sample("z", dist.Delta(pyro.param("loc", torch.tensor(0.0))))

    with pytest.raises(IncompatibleSite, match="'z': a point mass has no density for WakePhi"):
        dsvi.RWS(2).loss_and_grads(model, point)


@pytest.mark.parametrize("made", [PIWAE(2, 1), RWS(), CUBO(2.0)], ids=repr)
def test_no_one_gradient_to_check_against(made):
    objective = dsvi.Objective(made, num_particles=2)
    with pytest.raises(InvalidArgument, match=r"the guide follows .*, not the model's"):
        dsvi.diagnostics.check_unbiased(model, guide, objective)
