r"""The toy on which estimators of discrete gradients are compared, to the last digit.

:math:`f(b) = \sum_{i \le 3} (b_i - p_i)^2` with p = (.6, .51, .48) and three bits that share one
logit eta.  Written for Pyro, -f is a factor of the model, the guide draws the bits, and both
programs mask the bits' own densities, so that f alone is what a bit answers for.  Two particles
make a gradient; its mean and variance over all 64 joint draws are exact.

Drawn together, at one site, the bits answer for f as a whole: variance 0.219, and 0.0073 with
leave-one-out.  Drawn apart, each answers for its own square alone: an order of magnitude less.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_dsvi as dsvi
from tests import hidden_noise
from tests.oracles import Force
from tests.scenarios import BIT, f64

P = f64([0.6, 0.51, 0.48])
DRAWS = torch.cartesian_prod(BIT, BIT, BIT)


def together(logits: Tensor, cost: bool) -> None:
    """One site of three bits with one cost: no bit's part in it can be told."""
    with poutine.mask(mask=False):
        b = pyro.sample("b", dist.Bernoulli(logits=logits.unsqueeze(-1).expand(3)).to_event(1))
    if cost:
        pyro.factor("f", -((b - P) ** 2).sum(-1))


def in_a_chain(logits: Tensor, cost: bool) -> None:
    """Three sites with a cost each."""
    for i in range(3):
        with poutine.mask(mask=False):
            b = pyro.sample(f"b{i}", dist.Bernoulli(logits=logits))
        if cost:
            pyro.factor(f"f{i}", -((b - P[i]) ** 2))


def in_a_plate(logits: Tensor, cost: bool) -> None:
    """One site in a plate, with a cost for each element."""
    with pyro.plate("bits", 3):
        with poutine.mask(mask=False):
            b = pyro.sample("b", dist.Bernoulli(logits=logits))
        if cost:
            pyro.factor("f", -((b - P) ** 2))


def gradients(program, baseline, eta: float) -> tuple[Tensor, Tensor]:
    """Gradient of f in eta at each of the 64 joint draws of two particles, and its probability."""
    pyro.clear_param_store()
    pyro.param("eta", f64(eta))
    model = partial(program, f64(0.0), True)
    objective = dsvi.ScoreFunctionELBO(baseline, num_particles=2, vectorize_particles=True)
    found, probability = [], []

    def guide():
        program(pyro.param("eta"), False)

    q = 1 / (1 + math.exp(-eta))
    for one in DRAWS:
        for two in DRAWS:
            bits = torch.stack([one, two])
            given = {"b": bits, **{f"b{i}": bits[:, i] for i in range(3)}}
            pyro.param("eta").grad = None
            with Force([given]):
                objective.loss_and_grads(model, guide)
            found.append(pyro.param("eta").grad)
            probability.append(torch.where(bits == 1, f64(q), f64(1 - q)).prod())
    return torch.stack(found), torch.stack(probability)


def moments(program, baseline, eta: float = 0.0) -> tuple[float, float]:
    """Exact mean and variance of the gradient."""
    gradient, probability = gradients(program, baseline, eta)
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)
    mean = probability @ gradient
    return float(mean), float(probability @ (gradient - mean) ** 2)


PROGRAMS = [together, in_a_chain, in_a_plate]
LEAVE_ONE_OUT = dsvi.baselines.LeaveOneOut


@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("baseline", [None, LEAVE_ONE_OUT], ids=["none", "leave-one-out"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_mean_is_the_gradient(program, baseline, eta):
    """d/dη Σ E(b - p)² = q (1 - q) Σ (1 - 2p), whichever way it is written."""
    q = 1 / (1 + math.exp(-eta))
    expected = q * (1 - q) * float((1 - 2 * P).sum())
    mean, _ = moments(program, baseline and baseline(), eta)
    assert mean == pytest.approx(expected, abs=1e-12)


# At eta = 0, to five significant digits: a number for what is answered for, and with what baseline.
VARIANCES = [
    (together, None, 0.21921),
    (together, LEAVE_ONE_OUT, 0.0072750),
    (in_a_chain, None, 0.024106),
    (in_a_chain, LEAVE_ONE_OUT, 0.0026250),
    (in_a_plate, None, 0.024106),
    (in_a_plate, LEAVE_ONE_OUT, 0.0026250),
]


@pytest.mark.parametrize(("program", "baseline", "expected"), VARIANCES)
def test_variance(program, baseline, expected):
    _, variance = moments(program, baseline and baseline())
    assert variance == pytest.approx(expected, rel=3e-5)


# -- from two evaluations, the second at a value that the estimator asks about ------------------


def arm_noise(p: Tensor):
    """Two nodes to each interval: the estimate is linear there, its square of degree two."""
    for bit, centre, chance in hidden_noise.cells(p):
        for side in (-1, 1):
            shift = side * chance / 2 / math.sqrt(3)
            yield bit, [centre[0] + shift, centre[1] - shift], chance / 2


def asked(estimator, method: str, outcomes, eta: float) -> tuple[float, float]:
    """Exact mean and variance of the gradient over the bits and the estimator's noise."""
    q = 1 / (1 + math.exp(-eta))
    found = outcomes(f64([[1 - q, q]] * 3))
    R = len(found.probability)
    logits = pyro.param("eta", f64(eta).expand(R).clone())

    def guide():
        with pyro.plate("copies", R), poutine.mask(mask=False):
            spread = pyro.param("eta").unsqueeze(-1).expand(R, 3)
            return pyro.sample("b", dist.Bernoulli(logits=spread).to_event(1))

    def model():
        with pyro.plate("copies", R):
            with poutine.mask(mask=False):
                b = pyro.sample("b", dist.Bernoulli(f64([0.5] * 3)).to_event(1))
            pyro.factor("f", -((b - P) ** 2).sum(-1))

    forced = hidden_noise.force(estimator, method, [found.noise])
    objective = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"b": forced})
    with Force([{"b": found.numbers.double()}]):
        objective.loss_and_grads(model, guide)
    mean = found.probability @ logits.grad
    return float(mean), float(found.probability @ (logits.grad - mean) ** 2)


def each_bit(outcomes):
    return partial(hidden_noise.by_coordinate, each=lambda p: list(outcomes(p)))


def all_bits(p: Tensor) -> hidden_noise.Outcomes:
    """Two different values of the three bits."""
    numbers = torch.cartesian_prod(*[torch.arange(2)] * 3)
    joint = p[torch.arange(3), numbers].prod(-1)
    found = hidden_noise.by_coordinate(joint.unsqueeze(0), partial(hidden_noise.orders, k=2))
    return hidden_noise.Outcomes(numbers[found.numbers[:, 0]], found.noise[:, 0], found.probability)


ARM = dsvi.ARM(), "noise", each_bit(arm_noise)
DISARM = dsvi.DisARM(), "partner", each_bit(hidden_noise.pairs)
TWO_VALUES = dsvi.WithoutReplacement(2), "others", all_bits


@pytest.mark.parametrize(
    ("pair", "eta", "expected"),
    [
        (ARM, 0.0, 0.0072750),
        (DISARM, 0.0, 0.0046500),
        (DISARM, 2.0, 0.0022992),
        (TWO_VALUES, 0.0, 0.0061125),
    ],
)
def test_variance_of_pairs(pair, eta, expected):
    q = 1 / (1 + math.exp(-eta))
    mean, variance = asked(*pair, eta)
    assert mean == pytest.approx(q * (1 - q) * float((1 - 2 * P).sum()), abs=1e-12)
    assert variance == pytest.approx(expected, rel=3e-5)
