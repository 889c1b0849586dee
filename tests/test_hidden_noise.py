"""The noise behind a draw: its law given the draw is that of the estimator's definition."""

import itertools

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.estimators.disarm import law_of_partner
from pyro_dsvi.estimators.without_replacement import leave_out
from tests import hidden_noise
from tests.scenarios import f64

LAWS = [
    f64([0.3, 0.7]),
    f64([0.5, 0.5]),
    f64([0.2, 0.5, 0.3]),
    f64([0.7, 0.1, 0.15, 0.05]),
    f64([0.1, 0.3, 0.05, 0.25, 0.3]),
    f64([0.02, 0.2, 0.08, 0.1, 0.25, 0.05, 0.3]),
]


def table(outcomes: list, count: int) -> Tensor:
    """Joint probabilities of a number and its noise, a number too."""
    found = torch.zeros(count, count, dtype=torch.float64)
    for z, other, chance in outcomes:
        found[z, other] += chance
    return found


@pytest.mark.parametrize("p", LAWS, ids=len)
def test_antithetic_partners(p):
    """By the tree of bits; the pair's law is symmetric, and both have the law p."""
    count = len(p)
    numbers = torch.arange(count)
    joint = p.unsqueeze(-1) * law_of_partner(p.expand(count, count), numbers)
    torch.testing.assert_close(joint, table(hidden_noise.pairs(p), count), rtol=0, atol=1e-15)
    torch.testing.assert_close(joint, joint.T, rtol=0, atol=1e-15)
    torch.testing.assert_close(joint.sum(0), p, rtol=0, atol=1e-15)


@pytest.mark.parametrize("p", LAWS[:4], ids=len)
def test_draws_of_antithetic_partners(p):
    """How often each pair comes, the first number being drawn by the law itself."""
    size = 20_000
    index = torch.multinomial(p, size, replacement=True)
    partner = dsvi.DisARM().partner(p.log().expand(size, -1), index)
    joint = table(hidden_noise.pairs(p), len(p))
    for z, other in itertools.product(range(len(p)), repeat=2):
        chance = float(joint[z, other])
        share = float(((index == z) & (partner == other)).double().mean())
        assert abs(share - chance) <= 4.5 * (chance * (1 - chance) / size) ** 0.5 + 1e-12


@pytest.mark.parametrize("p", LAWS, ids=len)
def test_the_point_behind_a_number(p):
    """Over all numbers it is uniform on the simplex, and it decides the number."""
    index = torch.multinomial(p, 4000, replacement=True)
    point = dsvi.ARM().noise(p.log().expand(len(index), -1), index)
    assert torch.equal((point / p).argmin(-1), index)
    torch.testing.assert_close(point.sum(-1), torch.ones_like(point[:, 0]))
    for entry in point.T:
        assert kstest(entry.numpy(), "beta", args=(1, len(p) - 1)).pvalue > 1e-4


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("p", LAWS[2:5], ids=len)
def test_draws_without_replacement(p, k):
    """How often each order comes, the first number being drawn by the law itself."""
    size = 20_000
    first = torch.multinomial(p, size, replacement=True)
    estimator = dsvi.WithoutReplacement(k)
    others = estimator.others(p.log().expand(size, -1), first, k - 1)
    found = torch.cat([first.unsqueeze(-1), others], -1)
    for one, rest, chance in hidden_noise.orders(p, k):
        share = (found == torch.tensor([one, *rest])).all(-1).double().mean()
        assert abs(float(share) - chance) < 4.5 * (chance * (1 - chance) / size) ** 0.5


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("p", LAWS[3:], ids=len)
def test_leave_one_out_ratios(p, k):
    """By summing the chances of all orders."""

    def chance(of: tuple[int, ...], without: tuple[int, ...]) -> float:
        total = 0.0
        for order in itertools.permutations(of):
            left, product = 1 - float(p[list(without)].sum()), 1.0
            for one in order:
                product, left = product * float(p[one]) / left, left - float(p[one])
            total += product
        return total

    for chosen in itertools.combinations(range(len(p)), k):
        one, two = leave_out(p.log(), torch.tensor(chosen))
        for i, s in enumerate(chosen):
            rest = tuple(x for x in chosen if x != s)
            expected = chance(rest, (s,)) / chance(chosen, ())
            assert float(one[i]) == pytest.approx(expected, rel=1e-12)
            for j, t in enumerate(chosen):
                if s != t:
                    last = tuple(x for x in rest if x != t)
                    expected = chance(last, (s, t)) / chance(rest, (s,))
                    assert float(two[i, j]) == pytest.approx(expected, rel=1e-12)


def test_ratios_of_ten_values_next_to_certain():
    """Nothing cancels where what is left over has hardly any mass."""
    p = torch.cat([f64([1 - 1e-13]), torch.full((30,), 1e-13 / 30, dtype=torch.float64)])
    numbers = torch.arange(10)
    one, two = leave_out(p.log(), numbers)
    assert bool(one.isfinite().all())
    assert bool(two.isfinite().all())
    assert float((p[numbers] * one).sum()) == pytest.approx(1.0, rel=1e-9)
