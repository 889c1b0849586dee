"""The family of K-sample bounds against every joint draw, model and guide each by its own rule."""

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi import bounds
from pyro_dsvi.baselines import LeaveOneOut
from pyro_dsvi.errors import PlatesMergedWarning
from tests import oracles
from tests.oracles import Exact, assert_same, assert_same_gradient, truth_apart
from tests.scenarios import SCENARIOS, weighted

# -- by hand -------------------------------------------------------------------------------------

iwae = oracles.renyi(0.0)


def miwae(m: int) -> oracles.Bound:
    def value(log_w: Tensor) -> Tensor:
        groups = log_w.exp().chunk(m)
        return sum(group.mean(0).log() for group in groups) / m

    return value


def ciwae(beta: float) -> oracles.Bound:
    return lambda log_w: beta * log_w.mean(0) + (1 - beta) * iwae(log_w)


def cubo(n: float, sign: float = 1.0) -> oracles.Bound:
    return lambda log_w: sign * (n * log_w).exp().mean(0).log() / n


def shares(log_w: Tensor, beta: Tensor | float) -> Tensor:
    w = (beta * log_w).exp()
    return w / w.sum(0)


def tempered(log_w: Tensor, beta: Tensor | float) -> Tensor:
    return (shares(log_w, beta) * log_w).sum(0)


def riemann(betas: list[Any], right: float) -> oracles.Bound:
    def value(log_w: Tensor) -> Tensor:
        total = 0.0
        for low, high in itertools.pairwise(betas):
            ends = (1 - right) * tempered(log_w, low) + right * tempered(log_w, high)
            total = total + (high - low) * ends
        return total

    return value


def moments(intervals: int) -> oracles.Bound:
    """By bisection, then the implicit function's derivative."""

    def node(log_w: Tensor, share: float) -> Tensor:
        def off(beta: Tensor) -> Tensor:
            first, last = log_w.mean(0), tempered(log_w, 1.0)
            return tempered(log_w, beta) - (first + share * (last - first))

        with torch.no_grad():
            low, high = torch.zeros(log_w.shape[1:]).double(), torch.ones(log_w.shape[1:]).double()
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (
                    torch.where(off(middle) < 0, middle, low),
                    torch.where(off(middle) < 0, high, middle),
                )
            beta = (low + high) / 2
            mean = tempered(log_w, beta)
            rise = (shares(log_w, beta) * (log_w - mean) ** 2).sum(0)
        return beta - off(beta) / torch.where(rise > 1e-12, rise, math.inf)

    def value(log_w: Tensor) -> Tensor:
        inner = [node(log_w, i / intervals) for i in range(1, intervals)]
        return riemann([0.0, *inner, 1.0], 0.0)(log_w)

    return value


def covariance(betas: list[float]) -> Callable[[Tensor], Tensor]:
    def weights(log_w: Tensor) -> Tensor:
        total = torch.zeros_like(log_w)
        for low, high in itertools.pairwise(betas):
            w, mean = shares(log_w, low), tempered(log_w, low)
            total = total + (high - low) * w * ((1 - low) * (log_w - mean) - 1)
        return total

    return weights


NODES = [0.0, 0.1, 0.4, 1.0]
POINTS = bounds.Points(tuple(NODES[1:-1]))


@dataclass(frozen=True)
class Entry:
    """A bound made for K particles, and by hand what model and guide follow."""

    make: Callable[[int], bounds.Bound]
    model: oracles.Bound
    guide: oracles.Bound | None = None
    weights: Callable[[Tensor], Tensor] | None = None

    def truth(self, scenario, num_particles: int, nodes: int = 3) -> oracles.Answer:
        if self.guide is None and self.weights is None:
            return oracles.truth(scenario, self.model, num_particles, nodes)
        return truth_apart(
            scenario,
            self.model,
            num_particles,
            guide=self.guide,
            weights=self.weights,
            nodes=nodes,
        )


def tvo(rule: bounds.Rule) -> Entry:
    return Entry(lambda K: bounds.TVO(POINTS, rule), riemann(NODES, rule.value))


FAMILY = {
    "miwae": Entry(lambda K: bounds.MIWAE(K, 1), miwae(2)),
    "piwae": Entry(lambda K: bounds.PIWAE(K, 1), iwae, miwae(2)),
    "ciwae": Entry(lambda K: bounds.CIWAE(0.3), ciwae(0.3)),
    "tvo, left": tvo(bounds.Rule.LEFT),
    "tvo, trapezoid": tvo(bounds.Rule.TRAPEZOID),
    "tvo, right": tvo(bounds.Rule.RIGHT),
    "tvo, moments": Entry(lambda K: bounds.TVO(bounds.Moments(3)), moments(3)),
    "cubo": Entry(lambda K: bounds.CUBO(2.0), cubo(2.0), cubo(2.0, -1.0)),
    "elbo for the guide": Entry(
        lambda K: bounds.Apart(bounds.IWAE(), bounds.Renyi(0.5)), iwae, oracles.renyi(0.5)
    ),
}
WEIGHTED = {
    "rws": Entry(lambda K: bounds.RWS(), iwae, weights=lambda log_w: shares(log_w, 1.0)),
    "half a wake": Entry(
        lambda K: bounds.RWS(wake=0.5), iwae, weights=lambda log_w: 0.5 * shares(log_w, 1.0)
    ),
    "tvo, covariance": Entry(
        lambda K: bounds.Apart(bounds.TVO(POINTS), bounds.Covariance(bounds.TVO(POINTS))),
        riemann(NODES, 0.0),
        weights=covariance(NODES),
    ),
}
EVERY = FAMILY | WEIGHTED

# Dependent bits; one plate, two, a tied one, a minibatch, parts apart, scales, masks, branches.
PROGRAMS = ("pair", "subsampled", "branch")
# For some bounds only: they are slow.
MANY = ("rows", "tempered", "auxiliary")
SLOW = [("grid", "piwae"), ("masked", "rws"), ("apart", "rws"), ("shared", "piwae")]
SOME = ("piwae", "rws", "tvo, left")


def objective(bound, program, *, side_by_side=True, K=2, **options) -> dsvi.Objective:
    return dsvi.Objective(
        bound, num_particles=K, vectorize_particles=side_by_side and program.broadcasts, **options
    )


def expectation(name: str, program: str, *, loop: bool = False, **options) -> oracles.Answer:
    scenario = SCENARIOS[program]
    side_by_side = scenario.broadcasts and not loop
    made = objective(EVERY[name].make(2), scenario, side_by_side=side_by_side, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlatesMergedWarning)
        return Exact(made, scenario, side_by_side=side_by_side).expectation()


@pytest.mark.parametrize("name", [n for n in EVERY if n != "tvo, moments"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_joint_draw(program, name):
    assert_same(expectation(name, program), EVERY[name].truth(SCENARIOS[program], 2))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_every_joint_draw_frozen(name, loop):
    """Side by side and in a loop; live densities are looped over in the branching program."""
    actual = expectation(name, "data", loop=loop, frozen=True)
    assert_same(actual, EVERY[name].truth(SCENARIOS["data"], 2))


@pytest.mark.parametrize(("program", "name"), [*itertools.product(MANY, SOME), *SLOW])
def test_every_joint_draw_of_larger_programs(program, name):
    assert_same(expectation(name, program), EVERY[name].truth(SCENARIOS[program], 2))


@pytest.mark.parametrize("name", FAMILY)
def test_leave_one_out_keeps_the_expectation(name):
    scenario = SCENARIOS["single"]
    one = dict.fromkeys(scenario.discrete, dsvi.ScoreFunction(LeaveOneOut()))
    actual = expectation(name, "single", frozen=True, estimators=one)
    assert_same(actual, EVERY[name].truth(scenario, 2))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("made", [bounds.MIWAE(2, 2), bounds.PIWAE(2, 2)], ids=repr)
def test_groups_of_two(made, frozen):
    """Four particles in two groups, one bit each."""
    scenario = SCENARIOS["single"]
    by_hand = Entry(lambda K: made, miwae(2) if made.guide is made else iwae, miwae(2))
    exact = Exact(objective(made, scenario, K=4, frozen=frozen), scenario, side_by_side=True)
    assert_same(exact.expectation(), by_hand.truth(scenario, 4))


# -- Normal sites --------------------------------------------------------------------------------

CONVERGED = {"hierarchy": 16, "normal_first": 24, "normal_last": 24}  # nodes: see test_mixed


@pytest.mark.parametrize("name", [n for n in FAMILY if n != "tvo, moments"])
@pytest.mark.parametrize("program", CONVERGED)
def test_paths(program, name):
    """Differentiating through a draw is exact at any number of nodes."""
    scenario = SCENARIOS[program]
    exact = Exact(objective(EVERY[name].make(2), scenario), scenario, side_by_side=True)
    actual = exact.expectation_in_copies(3)
    assert_same_gradient(actual, EVERY[name].truth(scenario, 2, 3).gradient)


@pytest.mark.parametrize("name", [n for n in FAMILY if n != "tvo, moments"])
@pytest.mark.parametrize("program", CONVERGED)
def test_frozen_paths(program, name):
    """Doubly reparameterised, beside bits by their score: an integration by parts."""
    scenario, nodes = SCENARIOS[program], CONVERGED[program]
    made = objective(EVERY[name].make(2), scenario, frozen=True)
    actual = Exact(made, scenario, side_by_side=True).expectation_in_copies(nodes)
    assert_same_gradient(actual, EVERY[name].truth(scenario, 2, nodes).gradient, 1e-9)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("program", CONVERGED)
def test_weighted_densities_by_path_and_by_score(program, name):
    """Weights on densities, or paths with the weights' slopes: the same in expectation."""
    scenario, nodes = SCENARIOS[program], CONVERGED[program]
    live, frozen = (
        Exact(
            objective(EVERY[name].make(2), scenario, frozen=frozen), scenario, side_by_side=True
        ).expectation_in_copies(nodes)
        for frozen in (False, True)
    )
    assert_same_gradient(frozen, live, 1e-9)
    by_model = EVERY[name].model
    expected = oracles.truth(scenario, by_model, 2, nodes).gradient
    theirs = set(expected) - oracles.parameters_of_guide(scenario)
    assert_same_gradient({n: live[n] for n in theirs}, {n: expected[n] for n in theirs}, 1e-10)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["piwae", "rws", "tvo, left"])
def test_particles_in_a_loop_are_those_side_by_side(name, frozen):
    """A bit above a Normal site, at every joint draw."""
    scenario = SCENARIOS["normal_last"]
    steps = [
        Exact(
            objective(EVERY[name].make(2), scenario, side_by_side=side_by_side, frozen=frozen),
            scenario,
            side_by_side=side_by_side,
        ).every_step(2)
        for side_by_side in (True, False)
    ]
    for (_, one), (_, other) in zip(*steps, strict=True):
        assert_same(one, other, 1e-12)


@pytest.mark.parametrize("name", ["piwae", "rws", "cubo"])
def test_scaled_densities(name):
    """Densities that count in half do so by their weight and by the path alike."""
    scenario = weighted(0.5, 0.5)
    live, frozen = (
        Exact(
            objective(EVERY[name].make(2), scenario, frozen=frozen), scenario, side_by_side=True
        ).expectation_in_copies(16)
        for frozen in (False, True)
    )
    assert_same_gradient(frozen, live, 1e-6)  # the quadrature's error, as in test_mixed


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["piwae", "rws", "tvo, left"])
def test_masked_element_by_element(name, frozen):
    """A mask that silences some elements of a plate acts on each as it would on all."""
    noise = {site: torch.randn(2, 2, dtype=torch.float64) for site in ("z", "y")}

    def gradient(factor):
        made = objective(EVERY[name].make(2), SCENARIOS["hierarchy"], frozen=frozen)
        exact = Exact(made, weighted(factor, factor), side_by_side=True, warm_up=0)
        return exact.step(noise, copies=2).gradient

    both = gradient(torch.tensor([True, False]))
    seen, silent = gradient(1.0), gradient(0.0)
    expected = {n: torch.stack([seen[n][0], silent[n][1]]) for n in both}
    assert_same_gradient(both, expected, 1e-12)
