"""Every outcome of a draw together with the noise that an estimator hides behind it.

What an estimator makes of a site depends on the draw and on noise of its own.  Here the joint law
of both is written out for each estimator, from its definition and with nothing of the package, so
that an expectation over both is a finite sum.  ``force`` puts the noise in.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.scenarios import f64


class Outcomes(NamedTuple):
    """N outcomes: numbers of the coordinates' values ``[N, D]``, noise, probability ``[N]``."""

    numbers: Tensor
    noise: Tensor
    probability: Tensor


def force(estimator: Any, method: str, noise: Iterable[Tensor]):
    """The estimator, with one method that draws noise handing out what is given, call by call."""
    given = iter(noise)

    def take(self, like: Tensor, *rest: Any) -> Tensor:
        return next(given)

    kind = type(f"Forced{type(estimator).__name__}", (type(estimator),), {method: take})
    return kind(**vars(estimator))


def by_coordinate(p: Tensor, each: Callable[[Tensor], list[tuple[int, Any, float]]]) -> Outcomes:
    """Coordinates are independent: all combinations of (number, noise, probability).

    Args:
        p: probabilities of D coordinates, shape ``[D, C]``.
        each: the outcomes of one coordinate, from its probabilities.
    """
    numbers, noise, probability = [], [], []
    for combination in itertools.product(*(each(row) for row in p)):
        numbers.append([one for one, _, _ in combination])
        noise.append([hidden for _, hidden, _ in combination])
        probability.append(math.prod(chance for _, _, chance in combination))
    return Outcomes(torch.tensor(numbers), torch.tensor(np.array(noise)), f64(probability))


# -- antithetic pairs -------------------------------------------------------------------------


def pairs(p: Tensor) -> list[tuple[int, Any, float]]:
    """A number and its antithetic partner, bit by bit down the tree."""
    size = 1 << (len(p) - 1).bit_length()
    masses = [*p.tolist(), *[0.0] * (size - len(p))]
    return [
        (z, partner, masses[z] * chance)
        for z in range(len(p))
        for partner, chance in _partners(masses, 0, size, z)
        if chance > 0
    ]


def _partners(masses: list[float], low: int, high: int, z: int) -> Iterator[tuple[int, float]]:
    if high - low == 1:
        yield z, 1.0
        return
    middle = (low + high) // 2
    right = sum(masses[middle:high]) / sum(masses[low:high])
    chance = right if z >= middle else 1 - right
    # Of the interval of u that leads to z's side, the part whose mirror image leads to the other.
    differs = min(right, 1 - right) / chance
    mine, other = ((middle, high), (low, middle))[:: 1 if z >= middle else -1]
    for partner, rest in _partners(masses, *mine, z):
        yield partner, (1 - differs) * rest
    for partner in range(*other):
        if masses[partner] > 0:
            yield partner, differs * masses[partner] / sum(masses[slice(*other)])


# -- points of the simplex --------------------------------------------------------------------


def cells(p: Tensor) -> list[tuple[int, Any, float]]:
    """The simplex cut where any swap of two entries changes the number: its cells' centroids.

    The estimate is linear in the point within a cell, so its mean there is that at the centroid.
    """
    p = p.numpy()
    C = len(p)
    found = [np.eye(C)]
    for i, j in itertools.permutations(range(C), 2):
        for a, b in itertools.combinations(range(C), 2):  # pi_a / p_i = pi_b / p_j
            normal = np.zeros(C)
            normal[a], normal[b] = p[j], -p[i]
            found = [part for cell in found for part in _cut(cell, normal)]
    sizes = [_size(cell) for cell in found]
    whole = _size(np.eye(C))
    assert abs(sum(sizes) / whole - 1) < 1e-12
    points = [_centroid(cell) for cell in found]
    return [(int(np.argmin(x / p)), x, s / whole) for x, s in zip(points, sizes, strict=True)]


def _cut(cell: np.ndarray, normal: np.ndarray) -> Iterator[np.ndarray]:
    """The two parts of a segment or convex polygon on either side of a plane through the origin."""
    for sign in (1, -1):
        side = sign * cell @ normal
        part = []
        for n in range(len(cell)):
            m = (n + 1) % len(cell)
            if side[n] >= 0:
                part.append(cell[n])
            if side[n] * side[m] < 0 and not (len(cell) == 2 and n == 1):
                part.append((side[m] * cell[n] - side[n] * cell[m]) / (side[m] - side[n]))
        if len(part) >= cell.shape[1] and _size(np.array(part)) > 1e-14:
            yield np.array(part)


def _triangles(cell: np.ndarray) -> list[np.ndarray]:
    return [cell[[0, n, n + 1]] for n in range(1, len(cell) - 1)] or [cell]


def _size(cell: np.ndarray) -> float:
    if len(cell) == 2:
        return float(np.linalg.norm(cell[1] - cell[0]))
    return sum(np.linalg.norm(np.cross(t[1] - t[0], t[2] - t[0])) / 2 for t in _triangles(cell))


def _centroid(cell: np.ndarray) -> np.ndarray:
    parts = _triangles(cell)
    sizes = np.array([_size(part) for part in parts])
    return sizes @ np.array([part.mean(0) for part in parts]) / sizes.sum()


# -- several values of a whole event ----------------------------------------------------------


def orders(p: Tensor, k: int) -> list[tuple[int, Any, float]]:
    """The first number of k drawn without replacement, the others, and their chance."""
    k = min(k, len(p))
    found = []
    for order in itertools.permutations(range(len(p)), k):
        chance, left = 1.0, 1.0
        for one in order:
            chance *= float(p[one]) / left
            left -= float(p[one])
        found.append((order[0], list(order[1:]), chance))
    return found


def tops(p: Tensor, k: int) -> list[tuple[int, Any, float]]:
    """A number, and one from those that are not among the k most probable."""
    ranked = sorted(range(len(p)), key=lambda one: -float(p[one]))
    rest = ranked[min(k, len(p) - 1) :]
    mass = float(p[rest].sum())
    return [(z, v, float(p[z]) * float(p[v]) / mass) for z in range(len(p)) for v in rest]
