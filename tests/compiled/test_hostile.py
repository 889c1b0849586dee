"""The hostile programs are hostile: a compiler without precautions gets them wrong."""

import pytest

from tests.compiled.gullible import GullibleSVI
from tests.compiled.hostile import PROGRAMS
from tests.compiled.hostile.run import eagerly, right, take_steps

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = [pytest.param(program, id=program.name) for program in PROGRAMS]


def gullibly(case, optim):
    return GullibleSVI(case.model, case.guide, optim, case.loss()).step


@pytest.mark.parametrize("program", ALL)
def test_eager_steps_are_reproducible(program):
    """Else there is nothing to compare with."""
    assert right(program).difference(take_steps(program, eagerly)) is None


@pytest.mark.parametrize("program", [p for p in ALL if not p.values[0].tame])
def test_a_gullible_compiler_gets_it_wrong(program):
    """Either it notices nothing, and goes astray, or it fails outright."""
    try:
        gullible = take_steps(program, gullibly)
    except Exception:
        return
    assert right(program).difference(gullible) is not None
