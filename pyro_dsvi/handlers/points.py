r"""Point sets that fill the unit cube more evenly than independent points, one set a step.

A scrambled set is random: each of its points is uniform by itself, so a mean over the points is
unbiased, while together they are spread more evenly than chance would spread them.

Sobol points are scrambled by a random linear map and a random shift of their binary digits,

.. math:: y_{ki} = \Big(\sum_{j \le i} L_{ij}\, x_{kj} + s_i\Big) \bmod 2, \qquad L_{ii} = 1,

with L and s of their own for each coordinate.  This keeps the set's equidistribution.

References:
    :cite:p:`sobol1967`, :cite:p:`matousek1998discrepancy`, :cite:p:`owen1998scrambling`
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from pyro_dsvi.errors import InvalidArgument

Factory = Callable[[int, int], Any]
"""Makes a scrambled engine, given its dimension and a seed."""

_DIGITS = 52  # what a double between 0 and 1 holds, with half a unit to spare
_CPU: Any = {"device": "cpu"}


class Source(Protocol):
    """Makes point sets, a few columns at a time."""

    def columns(self, count: int, start: int, stop: int) -> Tensor:
        """Columns of a set of ``count`` points; a set begins with ``start`` zero.

        Returns:
            Uniform numbers in double precision, shape ``[count, stop - start]``.
        """
        ...


class Sobol:
    """Sobol points with torch's direction numbers, scrambled anew for each set.

    Coordinates are scrambled independently of one another, so columns may be added to a set later.
    Those beyond the last direction number are independent uniform numbers.
    """

    most: int = SobolEngine.MAXDIM

    def __init__(self) -> None:
        self._plain = torch.empty(0, 0, dtype=torch.long, **_CPU)

    def columns(self, count: int, start: int, stop: int) -> Tensor:
        end = max(start, min(stop, self.most))
        u = torch.rand(count, stop - start, dtype=torch.float64, **_CPU)
        if end > start:
            u[:, : end - start] = _scramble(self._digits(count, end)[:, start:])
        return u

    def _digits(self, count: int, dimension: int) -> Tensor:
        """The points before scrambling: as many binary digits as tell them apart, as integers."""
        if len(self._plain) != count or self._plain.shape[1] < dimension:
            points = SobolEngine(dimension).draw(count, dtype=torch.float64)
            self._plain = (points * 2 ** _needed(count)).long()
        return self._plain[:, :dimension]


def _needed(count: int) -> int:
    return (count - 1).bit_length()


def _scramble(digits: Tensor) -> Tensor:
    """Random linear map and random shift of each column's binary digits, as numbers in (0, 1)."""
    count, dimension = digits.shape
    needed = _needed(count)
    y = torch.randint(2**_DIGITS, (1, dimension), **_CPU).expand(count, -1)
    for j in range(needed):
        # Column j of L: zero above the diagonal, one on it, random below.
        below = _DIGITS - 1 - j
        column = torch.randint(2**below, (dimension,), **_CPU) + 2**below
        y = y ^ (column * (digits >> (needed - 1 - j) & 1))
    return (y.double() + 0.5) / 2**_DIGITS


class Made:
    """Sets of an engine that is made anew for each, with a seed of its own.

    Columns that were not expected come from a longer sequence.

    Args:
        factory: makes the engine.
    """

    def __init__(self, factory: Factory) -> None:
        self.factory = factory

    def columns(self, count: int, start: int, stop: int) -> Tensor:
        seed = int(torch.randint(2**31, (), **_CPU))
        engine = self.factory(stop, seed)
        if not is_engine(engine):
            raise InvalidArgument(
                f"quasi_monte_carlo: expected an engine of {stop} dimensions, got {engine!r}"
            )
        return _next(engine, count)[:, start:]


class Given:
    """Sets that follow one another in the sequence of one scrambled engine.

    Args:
        engine: torch's or scipy's.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.dimension = engine.dimension if isinstance(engine, SobolEngine) else engine.d
        self._set = torch.empty(0, 0)

    def columns(self, count: int, start: int, stop: int) -> Tensor:
        if stop > self.dimension:
            raise InvalidArgument(
                f"quasi_monte_carlo: the engine has {self.dimension} dimensions, the guide's noise "
                f"at least {stop}; give it as many, or pass a function of the dimension and a seed"
            )
        if start == 0:
            self._set = _next(self.engine, count)
        return self._set[:, start:stop]


def is_engine(engine: Any) -> bool:
    """Whether it is an engine itself, torch's or scipy's, and not something that makes one."""
    if isinstance(engine, type):
        return False
    return isinstance(engine, SobolEngine) or (
        callable(getattr(engine, "random", None)) and hasattr(engine, "d")
    )


def _next(engine: Any, count: int) -> Tensor:
    """The engine's next points, with random digits where its own end."""
    if isinstance(engine, SobolEngine):
        u, digits = engine.draw(count, dtype=torch.float64), SobolEngine.MAXBIT
    else:
        u, digits = torch.as_tensor(engine.random(count), **_CPU), getattr(engine, "bits", None)
    if digits is None:
        return u
    return u + torch.rand(u.shape, dtype=torch.float64, **_CPU) / 2**digits


class Points:
    """One step's set, whose columns are made as they are asked for.

    Args:
        count: how many points there are.
        source: where they come from.
        expected: how many columns will be needed, as far as is known.
    """

    def __init__(self, count: int, source: Source, expected: int) -> None:
        self.count = count
        self.source = source
        self._u = torch.empty(count, 0, dtype=torch.float64, **_CPU)
        self._extend(expected)

    def columns(self, start: int, stop: int) -> Tensor:
        """Uniform numbers, shape ``[count, stop - start]``, in double precision."""
        self._extend(stop)
        return self._u[:, start:stop]

    def _extend(self, stop: int) -> None:
        known = self._u.shape[1]
        if stop > known:
            self._u = torch.cat([self._u, self.source.columns(self.count, known, stop)], 1)
