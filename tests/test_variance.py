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
