r"""Signal to noise of the guide's gradient: falls like K^-1/2 for IWAE, rises like K^1/2 for DReG.

Many independent copies of a linear-Gaussian model give as many gradients of its bound at once.
Both estimators have the same expectation, which is checked; for the guide it is taken from DReG,
whose error is smaller by far, so that the powers' errors are those of the standard deviations.

References:
    :cite:p:`rainforth2018tighter`, :cite:p:`tucker2019dreg`
"""

import math
from functools import partial

import pyro
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from tests.copies import own_copies, step
from tests.linear_gaussian import lines
from tests.scenarios import f64

SIZES, COPIES = (16, 128), 10_000
OFF = {"c": f64(-0.9), "log_r": f64(0.1)}  # the guide's place and width, off but with light tails
GUIDE, MODEL = ("c", "log_r"), ("W0", "W1", "b0", "b1", "log_s")
WITHIN = 0.07  # K = 16 is off the limit by up to 0.02; standard errors over seeds are up to 0.012
WITHIN_MODEL = 0.1  # K = 16 is off the limit by up to 0.07, for W1; standard errors are up to 0.006


@pytest.fixture(scope="module")
def gradients() -> dict[tuple[str, int], dict[str, Tensor]]:
    """Estimates of the gradient by estimator and K, and there by parameter."""
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        torch.manual_seed(0)
        return {
            (make.__name__, K): estimates(make(K, vectorize_particles=True, max_plate_nesting=1))
            for make in (dsvi.IWAE, dsvi.DReG)
            for K in SIZES
        }


def estimates(objective: dsvi.Objective) -> dict[str, Tensor]:
    pyro.clear_param_store()
    values = {**lines.parameters(), **OFF}
    own = {name: pyro.param(name, own_copies(value, COPIES)) for name, value in values.items()}
    programs = partial(lines.model, COPIES), partial(lines.guide, COPIES)
    return dict(zip(own, step(objective, *programs, own.values()), strict=True))


def power(gradients, name: str, parameter: str) -> float:
    """Of K, in the signal to noise between the two sizes."""
    first, last = (
        abs(gradients["DReG" if parameter in GUIDE else name, K][parameter].mean())
        / gradients[name, K][parameter].std()
        for K in SIZES
    )
    return math.log(last / first) / math.log(SIZES[1] / SIZES[0])


@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize("parameter", GUIDE)
def test_both_have_the_same_expectation(gradients, parameter, K):
    one, other = (gradients[name, K][parameter] for name in ("IWAE", "DReG"))
    error = ((one.var() + other.var()) / COPIES).sqrt()
    assert abs(one.mean() - other.mean()) < 4 * error
    assert abs(other.mean()) > 10 * other.std() / COPIES**0.5  # there is a signal


@pytest.mark.parametrize("parameter", GUIDE)
def test_of_the_guide_falls_for_iwae_and_rises_for_dreg(gradients, parameter):
    assert power(gradients, "IWAE", parameter) == pytest.approx(-0.5, abs=WITHIN)
    assert power(gradients, "DReG", parameter) == pytest.approx(0.5, abs=WITHIN)


@pytest.mark.parametrize("parameter", MODEL)
def test_of_the_model_rises_for_iwae(gradients, parameter):
    assert power(gradients, "IWAE", parameter) == pytest.approx(0.5, abs=WITHIN_MODEL)
