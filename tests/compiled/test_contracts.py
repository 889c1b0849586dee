"""The programs of the exact contract, replayed: each gradient is the eager one, draw by draw.

The exact tests force draws by a handler around the step, under which every step is an eager one; so
here the draws are those of the random stream, the same for both.
"""

import pyro
import pytest
import torch

import pyro_dsvi as dsvi
from tests.compiled.fitting import RECORDED
from tests.contracts.cases import BOUNDS, TWO, Case
from tests.scenarios import SCENARIOS

CASES = [
    Case(name, bound, "leave-one-out" if bound == "evidence" else "moving average", TWO, frozen)
    for name, scenario in SCENARIOS.items()
    for bound, frozen in (("evidence", False), ("iwae", True))
    if scenario.broadcasts and not scenario.copies
]


def _gradients(objective, program, seeds):
    """Gradients at some seeds, from fixed parameters, after steps in which it may be recorded."""
    pyro.clear_param_store()
    leaves = {
        name: pyro.param(name, p.detach().clone()) for name, p in program.parameters().items()
    }
    found = []
    for seed in seeds:
        for leaf in leaves.values():
            leaf.grad = None
        pyro.set_rng_seed(seed)
        loss = objective.loss_and_grads(program.model, program.guide)
        found.append((loss, {n: p.grad for n, p in leaves.items() if p.grad is not None}))
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replayed_gradients_are_the_eager_ones(case):
    assert case.bound in BOUNDS
    compiled = case.objective()
    compiled.compilation = RECORDED
    with case.warned():
        theirs = _gradients(case.objective(), case.program, range(9))
    with case.warned():
        ours = _gradients(compiled, case.program, range(9))
    assert isinstance(compiled, dsvi.Objective)
    assert not compiled._compiled.replayer.refused
    for (loss, gradient), (other_loss, other) in zip(ours, theirs, strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-9)
        assert gradient.keys() == other.keys()
        for name, value in gradient.items():
            torch.testing.assert_close(value, other[name], rtol=1e-8, atol=1e-10)
