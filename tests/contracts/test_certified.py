"""Every estimator x distribution x plate layout x particle mode has its certificate.

A new estimator is one line in ``CERTIFIED``, with what it refuses: it then meets every program in
every mode, under a bound that is a sum of costs and under one that is not.  What it does not offer
has to be refused by name.
"""

import warnings

import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage
from pyro_dsvi.bounds import IWAE, Evidence
from pyro_dsvi.diagnostics import compare
from pyro_dsvi.errors import DSVIError, DSVIWarning
from tests.contracts.cases import LOOP, ONE, TWO, Mode
from tests.contracts.certified import FAMILIES, LAYOUTS, Certified, estimates, reference

INDICES = (("Categorical",), ("Categorical, event",))  # which no relaxed value can stand for
EVENTS = tuple((family,) for family in FAMILIES if "event" in family)
# Values put in at all elements of a plate, of which a common term sees one at a time.
ELEMENTS = (("crossed plates", "iwae"),)


class Wave(torch.nn.Module):
    """A network for rows of any length, which has learnt nothing yet."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * rows.cumsum(-1)).sum(-1)


CERTIFIED = {
    "score function": Certified(dsvi.ScoreFunction),
    "score function, moving average": Certified(lambda: dsvi.ScoreFunction(MovingAverage())),
    "score function, leave-one-out": Certified(lambda: dsvi.ScoreFunction(LeaveOneOut()), fewest=2),
    "pathwise": Certified(dsvi.Pathwise, refuses=tuple((family,) for family in FAMILIES)),
    "enumerate": Certified(dsvi.Enumerate, refuses=(("iwae",), *EVENTS)),
    "ARM": Certified(dsvi.ARM),
    "DisARM": Certified(dsvi.DisARM),
    "measure-valued": Certified(dsvi.MeasureValued, refuses=ELEMENTS),
    "without replacement": Certified(lambda: dsvi.WithoutReplacement(2), refuses=ELEMENTS),
    "sum and sample": Certified(lambda: dsvi.SumAndSample(1), refuses=ELEMENTS),
    "REBAR": Certified(dsvi.REBAR, refuses=INDICES),
    "RELAX": Certified(lambda: dsvi.RELAX(Wave()), refuses=INDICES),
    "RELAX, network alone": Certified(lambda: dsvi.RELAX(Wave(), scale=None)),
    "Gumbel-softmax": Certified(lambda: dsvi.GumbelSoftmax(0.5), refuses=INDICES, biased=True),
    "straight-through": Certified(dsvi.StraightThrough, refuses=INDICES, biased=True),
}

BOUNDS = {"evidence": Evidence(), "iwae": IWAE()}
# With one particle the bounds are the same.
EVERY = (("evidence", ONE), ("evidence", TWO), ("evidence", LOOP), ("iwae", TWO), ("iwae", LOOP))
SOME = (("evidence", ONE), ("evidence", LOOP), ("iwae", TWO))
COPIES = 4000
# Of some thousands of certificates none is to be wrong by chance; a bias of a third of the
# gradient's norm in one element is then seen all the same.
LEVEL, DETECTABLE = 1e-6, 0.35


def every_case() -> list[tuple[str, str, str, str, Mode]]:
    return [
        (name, layout, family, bound, mode)
        for name in CERTIFIED
        for layout in LAYOUTS
        for family in FAMILIES
        for bound, mode in (EVERY if family == "Bernoulli" else SOME)
        if layout == "one plate" or "event" not in family
        # Behind a Normal site the programs are nearly linear in the bit: no bias is to be seen.
        if layout != "then Normal" or not CERTIFIED[name].biased
    ]


def refused(name: str, layout: str, family: str, bound: str, mode: Mode) -> bool:
    entry = CERTIFIED[name]
    too_few = mode.num_particles < entry.fewest
    case = {layout, family, bound}
    return too_few or any(case.issuperset(combination) for combination in entry.refuses)


def objective(name: str, layout: str, bound: str, mode: Mode) -> dsvi.Objective:
    return dsvi.Objective(
        BOUNDS[bound],
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators={site: CERTIFIED[name].make() for site in LAYOUTS[layout].sites},
    )


def ids(case: tuple[str, ...]) -> str:
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", [c for c in every_case() if not refused(*c)], ids=ids)
def test_offered(case):
    name, layout, family, bound, mode = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DSVIWarning)  # merged plates; biased estimators
        estimate = estimates(layout, family, objective(name, layout, bound, mode), COPIES)
    particles = 1 if bound == "evidence" else mode.num_particles
    right = reference(layout, family, BOUNDS[bound], particles)
    certificate = compare(estimate, right, bound=bound, level=LEVEL)
    if CERTIFIED[name].biased:
        assert not certificate.unbiased, str(certificate)
        return
    assert certificate.unbiased, str(certificate)
    assert certificate.detectable < DETECTABLE, str(certificate)


@pytest.mark.parametrize("case", [c for c in every_case() if refused(*c)], ids=ids)
def test_refused_by_name(case):
    name, layout, family, bound, mode = case
    model, guide = LAYOUTS[layout].copied(FAMILIES[family], None)
    with pytest.raises(DSVIError, match=rf"'{LAYOUTS[layout].sites[0]}'"):
        objective(name, layout, bound, mode).loss_and_grads(model, guide)
