"""A compiled step is the eager step, or says that it is taken eagerly and why: never wrong.

What is right is what ``pyro.infer.SVI`` does with the same objective, uncompiled, from the same
seed and state, while the same happens between the steps.
"""

from dataclasses import replace

import pytest
from pyro.infer import SVI

import pyro_dsvi as dsvi
from tests.compiled.hostile import PROGRAMS, calls, modules
from tests.compiled.hostile.case import CHANGE, STEPS
from tests.compiled.hostile.run import eagerly, right, take_steps

pytestmark = pytest.mark.filterwarnings("ignore")
CHECK = 12
# Their state moves in more ways than one while several steps are taken in one call.
UNROLLED = """
    a_tensor_changed_in_place annealing_by_a_buffer annealing_in_stages a_global_number_rebound
    batch_norm dropout_switched_off moving_averages changing_batches an_argument_changed_in_place
    subsamples_of_a_large_plate a_cleared_store a_learning_rate_schedule momentum_switched_on
    a_rate_that_decays_by_itself an_optimizers_state_loaded an_optimizers_state_looked_at
    rejection_samplers branch_on_a_latent
""".split()
# Whose parameters, arguments or gradients are hostile: what follows the gradients then matters.
BY_THEMSELVES = [*modules.PROGRAMS, *calls.PROGRAMS]
# Random, and written in place; compiling takes its time.
COMPILED = "rejection_samplers an_argument_changed_in_place".split()
REFUSAL = ("not compiled", "ordinary steps", "update is not")


def whole(**settings):
    """Steps of ``CompiledSVI``."""

    def make_step(case, optim):
        loss = case.loss(compiled=dsvi.Compilation(**settings))
        return dsvi.CompiledSVI(case.model, case.guide, optim, loss).step

    return make_step


def gradients(**settings):
    """Steps of Pyro's own SVI with an objective that is compiled."""

    def make_step(case, optim):
        loss = case.loss(compiled=dsvi.Compilation(**settings))
        return SVI(case.model, case.guide, optim, loss).step

    return make_step


def unrolled(**settings):
    """Single steps first, then pairs of steps in one call."""

    def make_step(case, optim):
        loss = case.loss(compiled=dsvi.Compilation(unroll=2, **settings))
        svi = dsvi.CompiledSVI(case.model, case.guide, optim, loss)
        return lambda *args: svi.run(2, *args)[-1].item()

    return make_step


def refusals(taken):
    return [(step, said) for step, said in taken.said if any(word in said for word in REFUSAL)]


def check(program, taken, several=1, updates=True):
    """Right at every step, and run eagerly where it has to be, which was said."""
    said = [message for _, message in refusals(taken)]
    assert right(program, several=several).difference(taken) is None, said
    if program.free:
        return
    if program.eager is None or ("update" in program.eager and not updates):
        assert not said
    else:
        assert any(program.eager in message for message in said), said


def parameters(keep):
    return [pytest.param(p, id=p.name) for p in PROGRAMS if keep(p)]


@pytest.mark.parametrize("program", parameters(lambda p: not p.late))
def test_whole_steps(program):
    check(program, take_steps(program, whole(backend="recorded")))


@pytest.mark.parametrize("program", parameters(lambda p: p in BY_THEMSELVES and not p.late))
def test_gradients(program):
    check(program, take_steps(program, gradients(backend="recorded")), updates=False)


@pytest.mark.parametrize("program", parameters(lambda p: p.name in UNROLLED))
def test_several_steps_in_one_call(program):
    check(program, take_steps(program, unrolled(backend="recorded")), several=2)


@pytest.mark.parametrize("program", parameters(lambda p: p.name in COMPILED))
def test_compiled_by_inductor(program):
    check(program, take_steps(program, whole(backend="inductor")))


@pytest.mark.parametrize("make_step", [whole, gradients])
@pytest.mark.parametrize("program", parameters(lambda p: p.late))
def test_what_only_another_look_can_see(program, make_step):
    """Found when the recording is compared with the program again, and no later.

    From then on the steps are right: those of a fit in which the change came at that step.
    """
    taken = take_steps(program, make_step(backend="recorded", first_check=CHECK), 2 * STEPS)
    assert right(program, 2 * STEPS).difference(taken).startswith(f"step {CHANGE}:")
    ((step, message),) = refusals(taken)
    assert CHANGE < step <= CHANGE + CHECK
    assert program.eager in message
    later = replace(program, build=lambda: changed_at(program.build(), step))
    assert take_steps(later, eagerly, 2 * STEPS).difference(taken) is None


def changed_at(case, step):
    """The case with its change at another step."""

    def before(now):
        case.before(now if now >= step else min(now, CHANGE - 1))

    return replace(case, before=before)
