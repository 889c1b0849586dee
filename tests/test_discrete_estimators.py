"""Estimators that ask about other values: their mean over the draw and all noise is the gradient.

One site, an arbitrary cost, and every outcome of draw and hidden noise as an element of a plate
with parameters of its own: one step gives the gradient at each, and their mean is exact.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import Bound
from tests import hidden_noise, oracles
from tests.contracts.cases import BOUNDS, LOOP, ONE, TWO, Mode
from tests.hidden_noise import Outcomes
from tests.scenarios import BIT, f64


class Family(NamedTuple):
    """A law on finitely many values, of D coordinates.

    Attributes:
        law: the distribution, from its parameters.
        start: the parameters; of the model's law, those turned upside down.
        values: the values of one coordinate, in order.
        event_dim: axes of an event.
    """

    law: Callable[[Tensor], Any]
    start: Tensor
    values: Tensor
    event_dim: int = 0

    def probabilities(self) -> Tensor:
        """Of each coordinate's values, shape ``[D, C]``; whatever the values are."""
        base = self.law(self.start)
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        one_each = self.values.reshape(-1, *(1,) * len(base.batch_shape), *self.values.shape[1:])
        return base.log_prob(one_each).exp().reshape(len(self.values), -1).T

    def value(self, numbers: Tensor) -> Tensor:
        """Values from the numbers of the coordinates, ``[..., D]`` to ``[..., *event]``."""
        found = self.values[numbers]
        return found if self.values.dim() - 1 < self.event_dim else found.squeeze(numbers.dim() - 1)


def binomial(logits: Tensor) -> Any:
    return dist.Binomial(2, logits=logits)


def in_an_event(law: Any) -> Callable[[Tensor], Any]:
    return lambda logits: law(logits=logits).to_event(1)


C3, C4 = f64([0.4, -0.3, 0.9]), f64([-0.2, 0.9, 0.3, -0.6])
TWO_OF_3 = torch.stack([C3, f64([0.1, 0.7, -0.5])])
BITS = f64([0.7, -0.4])
ONE_HOT = torch.eye(3, dtype=torch.float64)
FAMILIES = {
    "bernoulli": Family(lambda x: dist.Bernoulli(logits=x), f64(0.7), BIT),
    "improbable bit": Family(lambda x: dist.Bernoulli(logits=x), f64(-1.3), BIT),
    "categorical": Family(lambda x: dist.Categorical(logits=x), C3, torch.arange(3)),
    "four categories": Family(lambda x: dist.Categorical(logits=x), C4, torch.arange(4)),
    "one-hot": Family(lambda x: dist.OneHotCategorical(logits=x), C3, ONE_HOT, 1),
    "binomial": Family(binomial, f64(0.3), f64([0.0, 1.0, 2.0])),
    "bits": Family(in_an_event(dist.Bernoulli), BITS, BIT, 1),
    "categoricals": Family(in_an_event(dist.Categorical), TWO_OF_3, torch.arange(3), 1),
    "one-hots": Family(in_an_event(dist.OneHotCategorical), TWO_OF_3, ONE_HOT, 2),
}


def cost(z: Tensor, event_dim: int) -> Tensor:
    """No sum of functions of the coordinates, and no two values alike."""
    z = z.to(torch.float64)
    z = z.unsqueeze(-1) if event_dim == 0 else z.flatten(z.dim() - event_dim)
    return 2 * torch.cos((z * torch.arange(1, z.shape[-1] + 1).sqrt()).sum(-1) * 1.3 + 0.4)


def log_weight(family: Family, parameters: Tensor, z: Tensor) -> Tensor:
    prior = family.law(family.start.flip(-1) / 2 if family.start.dim() else family.start / 2)
    return prior.log_prob(z) + cost(z, family.event_dim) - family.law(parameters).log_prob(z)


def truth(family: Family, bound: oracles.Bound, num_particles: int) -> Tensor:
    """The gradient of the bound, by summation over all draws."""
    p = family.probabilities()
    each = [torch.arange(p.shape[1])] * len(p)
    z = family.value(torch.cartesian_prod(*each).reshape(-1, len(p)))
    parameters = family.start.clone().requires_grad_()
    log_q = family.law(parameters).log_prob(z)
    log_w = log_weight(family, parameters, z)
    index = torch.cartesian_prod(*[torch.arange(len(z))] * num_particles)
    index = index.reshape(-1, num_particles).T
    expected = (log_q[index].sum(0).exp() * bound(log_w[index])).sum()
    return torch.autograd.grad(expected, parameters)[0]


def mean(
    family: Family,
    estimator: Any,
    outcomes: Outcomes,
    method: str,
    bound: Bound,
    mode: Mode,
    **options: Any,
) -> Tensor:
    """The expected estimate over all outcomes of all particles."""
    R = len(outcomes.probability) ** mode.num_particles
    each = torch.arange(len(outcomes.probability))
    index = torch.cartesian_prod(*[each] * mode.num_particles).reshape(R, -1).T  # [K, R]
    z, noise = family.value(outcomes.numbers[index]), outcomes.noise[index]
    start = family.start.expand(R, *family.start.shape).clone()
    parameters = pyro.param("eta", start)

    def model():
        with pyro.plate("copies", R):
            prior = family.start.flip(-1) / 2 if family.start.dim() else family.start / 2
            value = pyro.sample("z", family.law(prior.expand_as(start)))
            pyro.factor("f", cost(value, family.event_dim))

    def guide():
        with pyro.plate("copies", R):
            pyro.sample("z", family.law(pyro.param("eta")))

    objective = dsvi.Objective(
        bound,
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators={"z": hidden_noise.force(estimator, method, _given(noise, mode))},
        **options,
    )
    particles = [{"z": z}] if mode.side_by_side else [{"z": one} for one in z]
    with oracles.Force(particles):
        objective.loss_and_grads(model, guide)
    assert parameters.grad is not None
    weights = outcomes.probability[index].prod(0)
    torch.testing.assert_close(weights.sum(), f64(1.0))
    return -torch.tensordot(weights, parameters.grad, 1)


def _given(noise: Tensor, mode: Mode) -> list[Tensor]:
    """What each call is to hand out: for all particles at once, or for one."""
    return [noise] if mode.side_by_side and mode.num_particles > 1 else list(noise)


def of_coordinates(each: Any, family: Family) -> Outcomes:
    """Noise of every coordinate; a site without an event has no axis for them."""
    found = hidden_noise.by_coordinate(family.probabilities(), each)
    scalar = len(family.probabilities()) == 1 and family.values.dim() - 1 == family.event_dim
    return found._replace(noise=found.noise.squeeze(1)) if scalar else found


def of_events(each: Any, family: Family) -> Outcomes:
    """Noise of the event as a whole, whose joint values are counted coordinate by coordinate."""
    p = family.probabilities()
    numbers = torch.cartesian_prod(*[torch.arange(p.shape[1])] * len(p)).reshape(-1, len(p))
    joint = p[torch.arange(len(p)), numbers].prod(-1)
    found = hidden_noise.by_coordinate(joint.unsqueeze(0), each)
    return Outcomes(numbers[found.numbers[:, 0]], found.noise[:, 0], found.probability)


def every_value(p: Tensor) -> list[tuple[int, Any, float]]:
    """No noise."""
    return [(z, 0.0, float(chance)) for z, chance in enumerate(p)]


class Asked(NamedTuple):
    """An estimator, what it draws, and every outcome of that."""

    estimator: Any
    method: str
    outcomes: Callable[[Family], Outcomes]


def without(k: int) -> Asked:
    outcomes = partial(of_events, partial(hidden_noise.orders, k=k))
    return Asked(dsvi.WithoutReplacement(k), "others", outcomes)


def top(k: int) -> Asked:
    outcomes = partial(of_events, partial(hidden_noise.tops, k=k))
    return Asked(dsvi.SumAndSample(k), "sample", outcomes)


ASKED = {
    "ARM": Asked(dsvi.ARM(), "noise", partial(of_coordinates, hidden_noise.cells)),
    "DisARM": Asked(dsvi.DisARM(), "partner", partial(of_coordinates, hidden_noise.pairs)),
    "MeasureValued": Asked(
        dsvi.MeasureValued(), "exponentials", partial(of_coordinates, every_value)
    ),
    "WithoutReplacement(2)": without(2),
    "WithoutReplacement(3)": without(3),
    "SumAndSample(1)": top(1),
    "SumAndSample(2)": top(2),
}
# The simplex is cut for two and three values, and for one coordinate of three.
OUTSIDE = {("ARM", "four categories"), ("ARM", "categoricals"), ("ARM", "one-hots")}
COMBINATIONS = [(a, f) for a in ASKED for f in FAMILIES if (a, f) not in OUTSIDE]


@pytest.mark.parametrize(("asked", "name"), COMBINATIONS)
@pytest.mark.parametrize("frozen", [False, True])
def test_one_particle(asked, name, frozen):
    family, (estimator, method, outcomes) = FAMILIES[name], ASKED[asked]
    bound, by_hand = BOUNDS["evidence"]
    actual = mean(family, estimator, outcomes(family), method, bound, ONE, frozen=frozen)
    torch.testing.assert_close(actual, truth(family, by_hand, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("mode", [TWO, LOOP], ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bound", ["evidence", "iwae", "renyi(2)"])
def test_two_particles(asked, bound, mode, frozen):
    family = FAMILIES["bernoulli" if asked == "ARM" else "categorical"]
    estimator, method, outcomes = ASKED[asked]
    found = outcomes(family)
    actual = mean(family, estimator, found, method, BOUNDS[bound][0], mode, frozen=frozen)
    torch.testing.assert_close(actual, truth(family, BOUNDS[bound][1], 2), rtol=0, atol=1e-10)
