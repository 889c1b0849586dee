"""Every unbiased estimator of a bit under bounds of the family, model and guide apart as well."""

from dataclasses import replace

import pytest

import pyro_dsvi as dsvi
from pyro_dsvi import bounds
from pyro_dsvi.diagnostics import Gradient, compare
from tests.contracts.certified import LAYOUTS, estimates, reference
from tests.contracts.test_certified import CERTIFIED, COPIES, DETECTABLE, LEVEL

# The bound, and that of the guide where it has one of its own.
FAMILY = {
    "piwae": (bounds.PIWAE(2, 1), bounds.IWAE(), bounds.MIWAE(2, 1)),
    "tvo": (bounds.TVO(bounds.LogUniform(3)),) * 3,
}
GUIDES_OWN = ("eta",)
OFFERED = [
    name
    for name, entry in CERTIFIED.items()
    if not entry.biased and name not in ("pathwise", "enumerate")
]


def right(layout: str, family: str) -> Gradient:
    _, model, guide = FAMILY[family]
    of_model, of_guide = (reference(layout, "Bernoulli", bound, 2) for bound in (model, guide))
    own = {name: of_guide.mean[name] for name in GUIDES_OWN}
    return replace(of_model, mean={**of_model.mean, **own})


@pytest.mark.parametrize("name", OFFERED)
@pytest.mark.parametrize("family", FAMILY)
def test_offered(family, name):
    layout = "one plate"
    sites = LAYOUTS[layout].sites
    objective = dsvi.Objective(
        FAMILY[family][0],
        num_particles=2,
        vectorize_particles=True,
        estimators={site: CERTIFIED[name].make() for site in sites},
    )
    estimate = estimates(layout, "Bernoulli", objective, COPIES)
    certificate = compare(estimate, right(layout, family), bound=family, level=LEVEL)
    assert certificate.unbiased, str(certificate)
    assert certificate.detectable < DETECTABLE, str(certificate)
