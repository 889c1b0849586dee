"""The same for guides with Normal sites, pathwise or by their score, alone or beside bits."""

import pytest
import torch

from pyro_dsvi.errors import IncompatibleSite
from tests import scenarios
from tests.contracts.cases import (
    BOUNDS,
    LOOP,
    MIXED_FROZEN,
    MIXED_LIVE,
    ONE,
    SCORED,
    TWO,
    Case,
)
from tests.oracles import (
    Exact,
    assert_same,
    assert_same_gradient,
    truth,
)

# Nodes at which the quadrature's own error is below 1e-10: see test_quadrature_has_converged.
NODES = {"hierarchy": 16, "normal_first": 24, "normal_last": 24}
FEW = 3


def nodes(case: Case) -> int:
    return NODES[case.scenario] if case.mode.num_particles < 3 else 12


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", NODES)
def test_quadrature_has_converged(name, bound):
    """Twice the nodes change no number by 1e-10, so an identity that fails is wrong."""
    once, twice = (
        truth(scenarios.SCENARIOS[name], BOUNDS[bound][1], 2, n)
        for n in (NODES[name], 2 * NODES[name])
    )
    assert_same(once, twice)


@pytest.mark.parametrize("case", MIXED_LIVE, ids=str)
def test_live(case: Case):
    """Differentiating through a draw is exact at any number of nodes: a few serve."""
    actual = case.exact().expectation(FEW)
    assert_same(actual, truth(case.program, case.by_hand, case.mode.num_particles, FEW))


@pytest.mark.parametrize("case", MIXED_FROZEN, ids=str)
def test_frozen(case: Case):
    """Leaving out the densities' own gradient is an integration by parts."""
    actual = case.exact().expectation_in_copies(nodes(case))
    expected = truth(case.program, case.by_hand, case.mode.num_particles, nodes(case))
    # With three particles and 12 nodes the quadrature is off by 2e-10.
    assert_same_gradient(actual, expected.gradient, 1e-10 if case.mode.num_particles < 3 else 1e-8)


@pytest.mark.parametrize("case", SCORED, ids=str)
def test_score_at_normal_sites(case: Case):
    """A Normal site may be scored instead; a frozen density then goes into its credit."""
    actual = case.exact().expectation_in_copies(nodes(case))
    expected = truth(case.program, case.by_hand, case.mode.num_particles, nodes(case))
    assert_same_gradient(actual, expected.gradient)


@pytest.mark.parametrize("mode", [TWO, LOOP], ids=str)
@pytest.mark.parametrize("bound", ["evidence", "iwae"])
@pytest.mark.parametrize("name", NODES)
def test_copies_in_a_plate_are_the_program_itself(name, bound, mode):
    """What the frozen tests rest on: at each joint draw, alone and as an element of a plate."""
    case = Case(name, bound, "none", mode, frozen=True)
    alone = case.exact()
    each = alone.every_step(FEW)
    expected = {n: sum(p * a.gradient[n] for p, a in each) for n in alone.parameters}
    assert_same_gradient(case.exact().expectation_in_copies(FEW), expected, 1e-13)


WEIGHTS = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 2.0)]


@pytest.mark.parametrize("mode", [ONE, TWO], ids=str)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_weighted_live(weights, bound, mode):
    """Scale and mask of a latent count in its cost, and not in its draw."""
    assert_weighted(weights, Case("hierarchy", bound, "none", mode), 1e-10)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_weighted_frozen(weights, bound):
    """With densities frozen they change the gain as well; different ones may be refused."""
    case = Case("hierarchy", bound, "none", TWO, frozen=True)
    try:
        # Weights that leave a density out spread: the quadrature is off by up to 5e-7 here.
        assert_weighted(weights, case, 1e-6)
    except IncompatibleSite:
        assert weights[0] != weights[1]
        assert bound != "evidence"


def assert_weighted(weights: tuple[float, float], case: Case, tolerance: float) -> None:
    program = scenarios.weighted(*weights)
    exact = Exact(case.objective(), program, side_by_side=True)
    actual = exact.expectation_in_copies(NODES["hierarchy"])
    expected = truth(program, case.by_hand, case.mode.num_particles, NODES["hierarchy"])
    assert_same_gradient(actual, expected.gradient, tolerance)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bound", BOUNDS)
def test_masked_element_by_element(bound, frozen):
    """A mask that silences some elements of a plate acts on each as it would on all."""
    case = Case("hierarchy", bound, "none", TWO, frozen=frozen)
    noise = {name: torch.randn(2, 2, dtype=torch.float64) for name in ("z", "y")}

    def gradient(factor):
        exact = Exact(
            case.objective(), scenarios.weighted(factor, factor), side_by_side=True, warm_up=0
        )
        return exact.step(noise, copies=2).gradient

    both = gradient(torch.tensor([True, False]))
    seen, silent = gradient(1.0), gradient(0.0)
    expected = {n: torch.stack([seen[n][0], silent[n][1]]) for n in both}
    assert_same_gradient(both, expected, 1e-12)
