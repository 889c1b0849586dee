"""Sums over supports: exact at every step, beside any other estimator, and refused by name."""

import itertools
from collections.abc import Iterator

import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage, OptimalScale
from pyro_dsvi.bounds import Evidence
from tests import oracles
from tests.contracts.cases import LOOP, ONE, TWO, Mode
from tests.oracles import Answer, Exact, assert_same, truth
from tests.scenarios import SCENARIOS, Scenario, f64

MODES = (ONE, TWO, LOOP)
# Whose sites can all take their whole support: no Python branches, no bits in one event.
WHOLE = [
    name
    for name, scenario in SCENARIOS.items()
    if scenario.discrete == list(scenario.latents) and name not in ("branch", "events")
]


def objective(estimators, mode: Mode = ONE, bound=None, **options) -> dsvi.Objective:
    return dsvi.Objective(
        bound or Evidence(),
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators=estimators,
        **options,
    )


def one_step(objective: dsvi.Objective, scenario: Scenario) -> Answer:
    """A single step, from the start values: whatever is drawn, is drawn at random."""
    exact = Exact(objective, scenario, side_by_side=True, warm_up=0)
    loss = objective.loss_and_grads(scenario.model, scenario.guide)
    gradient = {
        name: torch.zeros_like(p) if p.grad is None else -p.grad
        for name, p in exact.parameters.items()
    }
    return Answer(f64(-loss), gradient)


# -- every site by its whole support: no variance at all ---------------------------------------


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"analytic_kl": True}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_one_step_is_the_truth(name, mode, options):
    scenario = SCENARIOS[name]
    every = dict.fromkeys(scenario.latents, dsvi.Enumerate())
    actual = one_step(objective(every, mode, **options), scenario)
    assert_same(actual, truth(scenario, oracles.evidence, 1))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_the_value_alone(name, mode):
    scenario = SCENARIOS[name]
    every = dict.fromkeys(scenario.latents, dsvi.Enumerate())
    exact = Exact(objective(every, mode), scenario, side_by_side=True, warm_up=0)
    loss = exact.objective.loss(scenario.model, scenario.guide)
    assert -loss == pytest.approx(float(truth(scenario, oracles.evidence, 1).value), abs=1e-10)


# -- some sites by their support, the others by their score ------------------------------------

BASELINES = {
    "none": lambda: None,
    "leave-one-out": LeaveOneOut,
    "scaled moving average": lambda: OptimalScale(MovingAverage()),
}
TURNS = {ONE: "scaled moving average", TWO: "leave-one-out", LOOP: "none"}
# 256 to 4,096 outcomes with two particles.
MANY = [("masked", "b"), ("shared", "g"), ("chain", "b0"), ("chain", "b2")]


def some() -> Iterator[tuple[str, tuple[str, ...], Mode, bool]]:
    """Every program with every choice of some of its sites, live and frozen in turns."""
    turn = 0
    for name, scenario in SCENARIOS.items():
        if name not in WHOLE and name != "events":
            continue
        for n in range(1, len(scenario.latents)):
            for whole in itertools.combinations(scenario.latents, n):
                many = name in ("nested", "events") or (name, whole[0]) in MANY
                for mode in (ONE,) if many else MODES:
                    if "bits" not in whole:
                        yield name, whole, mode, turn % 3 == 0
                        turn += 1


@pytest.mark.parametrize(("name", "whole", "mode", "frozen"), list(some()), ids=str)
def test_beside_score_functions(name, whole, mode, frozen):
    """Upstream and downstream of each other, in the plates of each other and outside."""
    scenario = SCENARIOS[name]
    score = dsvi.ScoreFunction(BASELINES[TURNS[mode]]())
    estimators = {n: dsvi.Enumerate() if n in whole else score for n in scenario.latents}
    exact = Exact(objective(estimators, mode, frozen=frozen), scenario, side_by_side=True)
    assert_same(exact.explored_expectation(), truth(scenario, oracles.evidence, 1))


# -- beside Normal sites ------------------------------------------------------------------------

FEW = 3


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_beside_pathwise_sites(name, mode):
    """A path through a draw upstream of the support, and through one draw for each value."""
    scenario = SCENARIOS[name]
    exact = Exact(
        objective({"b": dsvi.Enumerate()}, mode), scenario, side_by_side=mode.side_by_side
    )
    expected = truth(scenario, oracles.evidence, 1, FEW)
    assert_same(exact.expectation(FEW), expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("z", [dsvi.Pathwise(), dsvi.ScoreFunction()])
@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_frozen_or_scored_normal_sites(name, z, frozen):
    """What takes an integration by parts, with as many nodes as that takes."""
    scenario = SCENARIOS[name]
    estimators = {"b": dsvi.Enumerate(), "z": z}
    exact = Exact(objective(estimators, frozen=frozen), scenario, side_by_side=True)
    actual = exact.expectation_in_copies(24)
    oracles.assert_same_gradient(actual, truth(scenario, oracles.evidence, 1, 24).gradient)


@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_closed_forms_beside_a_support(name):
    """The KL of the Normal site stands under the sum over the support, too."""
    scenario = SCENARIOS[name]
    exact = Exact(objective({"b": dsvi.Enumerate()}, analytic_kl=True), scenario, side_by_side=True)
    actual = exact.expectation_in_copies(24)
    oracles.assert_same_gradient(actual, truth(scenario, oracles.evidence, 1, 24).gradient)
