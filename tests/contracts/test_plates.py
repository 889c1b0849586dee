"""A K-sample bound is per element of the plates that all its terms share, and says when not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import NotABoundWarning, PlatesMergedWarning
from tests.contracts.cases import BOUNDS
from tests.draws import Drawn
from tests.oracles import Force
from tests.scenarios import f64

DATA = f64([0.9, -0.5, 0.2, 1.4])
BITS = f64([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])  # three particles, two data


def log_weights(indices: list[int], slope: float = 1.2) -> torch.Tensor:
    """By hand, of three particles at the data given: Bernoulli(0.3), guide Bernoulli(0.6)."""
    x = DATA[indices]
    prior = torch.where(BITS == 1, f64(0.3 / 0.6), f64(0.7 / 0.4)).log()
    return prior - (x - slope * BITS) ** 2 / 2 - math.log(2 * math.pi) / 2


def run(bound, indices, *, tied: bool = False, side_by_side: bool = True) -> float:
    """The bound, with two of the four data in the minibatch and the bits given above."""

    def plate():
        return pyro.plate("data", 4, subsample=torch.tensor(indices))

    def model():
        if tied:
            pyro.sample("g", dist.Bernoulli(f64(0.5)))
        with plate() as i:
            b = pyro.sample("b", dist.Bernoulli(f64(0.3)))
            pyro.sample("x", dist.Normal(1.2 * b, f64(1.0)), obs=DATA[i])

    def guide():
        p = f64(0.6)
        if tied:
            p = p + 0 * pyro.sample("g", dist.Bernoulli(f64(0.5)))
        with plate():
            pyro.sample("b", dist.Bernoulli(p))

    objective = dsvi.Objective(bound, num_particles=3, vectorize_particles=side_by_side)
    given = {"b": BITS, "g": torch.zeros(3, dtype=torch.float64)}
    particles = [given] if side_by_side else [{n: v[k] for n, v in given.items()} for k in range(3)]
    with Force(particles):
        return -objective.loss(model, guide)


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize("name", BOUNDS)
def test_scale_of_a_shared_plate_stands_outside(name, side_by_side):
    """Mean over particles within each datum, then the sum, then 4/2."""
    bound, by_hand = BOUNDS[name]
    expected = 4 / 2 * by_hand(log_weights([2, 0])).sum()
    assert run(bound, [2, 0], side_by_side=side_by_side) == pytest.approx(
        float(expected), abs=1e-12
    )


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "evidence"])
def test_a_latent_outside_merges_the_plate_and_says_so(name):
    """The bound is over what the latent ties together, and no bound once it is subsampled."""
    bound, by_hand = BOUNDS[name]
    expected = by_hand(4 / 2 * log_weights([2, 0]).sum(-1))
    with (
        pytest.warns(PlatesMergedWarning, match="'data'.*'g'.*outside"),
        pytest.warns(NotABoundWarning, match="'data' is subsampled and merged"),
    ):
        assert run(bound, [2, 0], tied=True) == pytest.approx(float(expected), abs=1e-12)


def test_an_additive_bound_has_nothing_to_merge():
    expected = 4 / 2 * log_weights([2, 0]).sum(-1).mean()
    actual = run(dsvi.bounds.Evidence(), [2, 0], tied=True)
    assert actual == pytest.approx(float(expected), abs=1e-12)


def test_programs_that_grow_apart_are_followed_again():
    """Once all terms stand under one bound, and then no more: what counts is how it is now."""
    apart = False

    def model():
        if apart:
            g = pyro.sample("g", dist.Bernoulli(f64(0.5)))
            pyro.sample("y", dist.Normal(g, f64(1.0)), obs=f64(0.7))
        with pyro.plate("data", 4):
            b = pyro.sample("b", dist.Bernoulli(f64(0.3)))
            pyro.sample("x", dist.Normal(1.2 * b, f64(1.0)), obs=DATA)

    def guide():
        if apart:
            pyro.sample("g", dist.Bernoulli(f64(0.6)))
        with pyro.plate("data", 4):
            pyro.sample("b", dist.Bernoulli(f64(0.6)))

    def objective():
        return dsvi.IWAE(2, vectorize_particles=True, max_plate_nesting=1)

    values = {"b": f64([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]), "g": f64([[1.0], [0.0]])}
    used = objective()
    with Drawn(values):
        for _ in range(3):
            used.loss(model, guide)
        assert not used._pair.follow
        apart = True
        assert used.loss(model, guide) == pytest.approx(objective().loss(model, guide), abs=1e-12)
