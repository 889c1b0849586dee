"""The expectation of every estimate is the bound, and that of its gradient the bound's gradient."""

import pytest

from tests.contracts.cases import DISCRETE, Case
from tests.oracles import assert_same, truth


@pytest.mark.parametrize("case", DISCRETE, ids=str)
def test_discrete(case: Case):
    """Every joint draw is visited: what is left is rounding."""
    with case.warned():
        actual = case.exact().expectation()
    assert_same(actual, truth(case.program, case.by_hand, case.mode.num_particles))
