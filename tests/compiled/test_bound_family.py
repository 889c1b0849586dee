"""Bounds whose model and guide receive weights of their own, replayed."""

import pyro
import pytest

import pyro_dsvi as dsvi
from pyro_dsvi import bounds
from tests.compiled.fitting import RECORDED, assert_same, fit, replays
from tests.compiled.programs import PROGRAMS

TVO = bounds.TVO(bounds.LogUniform(3))
FAMILY = {
    "PIWAE, frozen": lambda **o: dsvi.PIWAE(2, 2, frozen=True, **o),
    "TVO, moments": lambda **o: dsvi.TVO(4, partition=bounds.Moments(3), **o),
    "TVO, covariance": lambda **o: dsvi.Objective(
        bounds.Apart(TVO, bounds.Covariance(TVO)), num_particles=4, **o
    ),
    "RWS, half asleep": lambda **o: dsvi.RWS(4, sleep=0.5, **o),
    "tail-adaptive": lambda **o: dsvi.TailAdaptive(4, **o),
}


@pytest.mark.parametrize("name", FAMILY)
def test_a_replayed_fit_is_the_eager_one(name):
    def fitted(**options):
        pyro.set_rng_seed(0)
        return fit(PROGRAMS["amortised"], FAMILY[name](**options), whole=bool(options), steps=14)

    eager, compiled = fitted(), fitted(compiled=RECORDED)
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 6
