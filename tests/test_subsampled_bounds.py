"""Which bounds a minibatch estimates without bias, by every minibatch and every draw.

Each structure is one pair of programs on bits.  The expectation of the objective's estimate, over
all minibatches and all joint draws, is compared with that of the same objective on the whole data,
and with log p(x), which is summed over all bits by hand.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import IWAE, Renyi
from pyro_dsvi.errors import MinibatchBiasWarning, NotABoundWarning, PlatesMergedWarning
from tests.oracles import Explore
from tests.scenarios import f64

DATA = f64([0.9, -1.5, 2.2])
N, M = len(DATA), 2
PRIOR, SLOPE = 0.3, 2.0


def flip(name, p):
    return pyro.sample(name, dist.Bernoulli(torch.as_tensor(p, dtype=torch.float64)))


def seen(mean, name="x", rows=slice(None)):
    pyro.sample(name, dist.Normal(SLOPE * mean, f64(1.0)), obs=DATA[rows])


def rows(index):
    return pyro.plate("rows", N, subsample=index)


# -- programs: (model, guide) of a minibatch, or of all for None ----------------------------------


def local(index):
    def model():
        with rows(index) as i:
            seen(flip("z", PRIOR), rows=i)

    def guide():
        with rows(index):
            flip("z", 0.6)

    return model, guide


def outside(index):
    """A latent outside the plate, and none inside."""

    def model():
        g = flip("g", PRIOR)
        with rows(index) as i:
            seen(g, rows=i)

    def guide():
        flip("g", 0.6)
        with rows(index):
            pass

    return model, guide


def both(index):
    """A latent outside, and one inside that depends on it."""

    def model():
        g = flip("g", PRIOR)
        with rows(index) as i:
            seen(flip("z", 0.2 + 0.5 * g), rows=i)

    def guide():
        g = flip("g", 0.6)
        with rows(index):
            flip("z", 0.4 + 0.2 * g)

    return model, guide


def apart(index):
    """A latent outside that explains something else: nothing ties the elements."""

    def model():
        pyro.sample("y", dist.Normal(flip("g", PRIOR), f64(1.0)), obs=f64(0.4))
        with rows(index) as i:
            seen(flip("z", PRIOR), rows=i)

    def guide():
        flip("g", 0.6)
        with rows(index):
            flip("z", 0.6)

    return model, guide


def crossed(index):
    """Within each element that is subsampled, a latent ties the elements of another plate."""
    shift = f64([[0.0], [0.7]])

    def model():
        with pyro.plate("rows", N, subsample=index, dim=-1) as i:
            z = flip("z", PRIOR)
            with pyro.plate("repeats", 2, dim=-2):
                pyro.sample(
                    "x", dist.Normal(SLOPE * z + shift, f64(1.0)), obs=DATA[i].expand(2, -1)
                )

    def guide():
        with pyro.plate("rows", N, subsample=index, dim=-1):
            flip("z", 0.6)

    return model, guide


def iterated(index):
    """Latents inside a plate that is iterated over."""

    def model():
        for i in rows(index):
            seen(flip(f"z{i}", PRIOR), f"x{i}", rows=i)

    def guide():
        for i in rows(index):
            flip(f"z{i}", 0.6)

    return model, guide


def iterated_outside(index):
    def model():
        g = flip("g", PRIOR)
        for i in rows(index):
            seen(g, f"x{i}", rows=i)

    def guide():
        flip("g", 0.6)
        for _ in rows(index):
            pass

    return model, guide


# -- log p(x) by hand ------------------------------------------------------------------------------


def normal(x, mean):
    return math.exp(-0.5 * float(x - mean) ** 2) / math.sqrt(2 * math.pi)


def of_local():
    return sum(math.log(0.7 * normal(x, 0) + 0.3 * normal(x, SLOPE)) for x in DATA)


def of_outside():
    given = [math.prod(normal(x, SLOPE * g) for x in DATA) for g in (0, 1)]
    return math.log(0.7 * given[0] + 0.3 * given[1])


def of_both():
    total = 0.0
    for g, p_g in ((0, 0.7), (1, 0.3)):
        p = 0.2 + 0.5 * g
        total += p_g * math.prod((1 - p) * normal(x, 0) + p * normal(x, SLOPE) for x in DATA)
    return math.log(total)


def of_apart():
    y = math.log(0.7 * normal(f64(0.4), 0) + 0.3 * normal(f64(0.4), 1))
    return of_local() + y


def of_crossed():
    def pair(x, mean):
        return normal(x, mean) * normal(x, mean + 0.7)

    return sum(math.log(0.7 * pair(x, 0) + 0.3 * pair(x, SLOPE)) for x in DATA)


@dataclass(frozen=True)
class Structure:
    """Programs by the minibatch's size, log p(x), and what a bound of two particles says."""

    programs: Callable[[int], tuple[Any, Any]]
    log_evidence: Callable[[], float]
    unbiased: bool
    says: tuple[type[Warning], ...] = ()

    def of_two(self, bound):
        """An objective of two particles, side by side where the programs can be run so."""
        apart = self.programs not in (iterated, iterated_outside)
        return lambda: dsvi.Objective(bound, num_particles=2, vectorize_particles=apart)


STRUCTURES = {
    "latents inside": Structure(local, of_local, True),
    "latents inside, others apart": Structure(apart, of_apart, True),
    "a plate merged within each element": Structure(
        crossed, of_crossed, True, (PlatesMergedWarning,)
    ),
    "a latent outside": Structure(
        outside, of_outside, False, (PlatesMergedWarning, NotABoundWarning)
    ),
    "latents outside and inside": Structure(
        both, of_both, False, (PlatesMergedWarning, NotABoundWarning)
    ),
    "iterated over, latents inside": Structure(
        iterated, of_local, False, (PlatesMergedWarning, MinibatchBiasWarning)
    ),
    "iterated over, a latent outside": Structure(
        iterated_outside, of_outside, False, (PlatesMergedWarning, NotABoundWarning)
    ),
}


def expected(make, programs, size=None):
    """Expectation of the bound over all minibatches and draws, and the kinds of warnings given."""
    subsets = [None] if size is None else list(itertools.combinations(range(N), size))
    objective, total, mass = make(), 0.0, 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for subset in subsets:
            model, guide = programs(None if subset is None else torch.tensor(subset))
            objective.loss(model, guide)  # what is found out once, is found out now
            paths = [[]]
            while paths:
                path = paths.pop()
                with Explore(path) as explore:
                    value = -objective.loss(model, guide)
                p = float(explore.log_q.exp()) / len(subsets)
                total, mass = total + p * value, mass + p
                for i in range(len(path), len(explore.path)):
                    more = range(1, explore.options[i])
                    paths += [[*explore.path[:i], other] for other in more]
    assert mass == pytest.approx(1, abs=1e-12)
    return total, {w.category for w in caught}


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_elbo_is_estimated_without_bias_whatever_the_structure(name):
    structure = STRUCTURES[name]
    (part, said), (whole, _) = (expected(dsvi.MixedELBO, structure.programs, m) for m in (M, None))
    assert part == pytest.approx(whole, abs=1e-10)
    assert whole < structure.log_evidence()
    assert not said


@pytest.mark.parametrize(
    ("name", "bound"),
    [(n, IWAE()) for n, s in STRUCTURES.items() if s.unbiased]
    + [("latents inside", Renyi(0.5)), ("a plate merged within each element", Renyi(2.0))],
    ids=str,
)
def test_bounds_per_element_are_estimated_without_bias(name, bound):
    structure = STRUCTURES[name]
    part, said = expected(structure.of_two(bound), structure.programs, M)
    whole, said_of_whole = expected(structure.of_two(bound), structure.programs)
    assert part == pytest.approx(whole, abs=1e-10)
    assert whole < structure.log_evidence()
    assert said == said_of_whole == set(structure.says)


@pytest.mark.parametrize("name", [n for n, s in STRUCTURES.items() if not s.unbiased])
def test_bounds_that_tie_elements_are_not_and_say_so(name):
    structure = STRUCTURES[name]
    part, said = expected(structure.of_two(IWAE()), structure.programs, M)
    whole, said_of_whole = expected(structure.of_two(IWAE()), structure.programs)
    assert abs(part - whole) > 1e-3
    assert whole < structure.log_evidence()
    assert said == set(structure.says)
    assert said_of_whole == {PlatesMergedWarning}  # all of it is a minibatch like any other


def test_a_latent_outside_can_take_the_estimate_beyond_the_evidence():
    """So it is no bound; that it may also stay below, the test above does not deny."""
    part, _ = expected(lambda: dsvi.IWAE(4, vectorize_particles=True), outside, 1)
    assert part > of_outside() + 0.1


def test_a_bound_of_each_minibatchs_elements_together_is_a_bound_nevertheless():
    part, _ = expected(lambda: dsvi.IWAE(2, vectorize_particles=False), iterated, M)
    whole, _ = expected(lambda: dsvi.IWAE(2, vectorize_particles=False), iterated)
    assert whole < part < of_local()


def test_one_particle_is_an_elbo():
    part, said = expected(lambda: dsvi.IWAE(1), both, M)
    whole, _ = expected(dsvi.MixedELBO, both)
    assert part == pytest.approx(whole, abs=1e-10)
    assert not said


def test_side_by_side_says_and_estimates_the_same():
    for programs in (local, both):
        found = [
            expected(lambda s=s: dsvi.IWAE(2, vectorize_particles=s), programs, 1)
            for s in (True, False)
        ]
        assert found[0][0] == pytest.approx(found[1][0], abs=1e-10)
        assert found[0][1] == found[1][1]


def test_it_is_said_once_and_names_the_plate():
    model, guide = iterated(torch.tensor([0, 2]))
    objective = dsvi.IWAE(2, vectorize_particles=False)
    with (
        pytest.warns(PlatesMergedWarning, match="iterated over"),
        pytest.warns(MinibatchBiasWarning, match="'rows'.*not the one that the whole data"),
    ):
        objective.loss(model, guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.loss(model, guide)
