r"""Covariance within rows: in full, or of low rank plus diagonal; a whole layer may be one row.

.. math:: w_r = \mu_r + F_r z_r + \sqrt{d_r} \odot \varepsilon_r

with standard normal z and ε.  Where each output of a layer has a row of its own, its variance is
:math:`\sum_j C(a, F_j)^2 + C(a^2, d)`, and outputs stay independent.  Where they share a row, an
example's outputs are :math:`C(a, \mu) + \sum_j z_j C(a, F_j)` and noise of their own for d; the
example's z is the same for all that has been cut from that row, so that layers under one low-rank
law keep their covariance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.copies import compact, copies_of
from pyro_dsvi.lazy.laws.law import Law, Moments
from pyro_dsvi.lazy.layout import Kind, Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.roots import root
from pyro_dsvi.lazy.step import Step, point, spread, variance


@dataclass(frozen=True, eq=False)
class RowMoments(Moments):
    """Each output has a row of weights.

    Args:
        mean: the means.
        factors: what multiplies each element of z, shape ``[J, *view]``.
        variance: d; zeros if None.
        copies: sizes of the left dimensions, one where the same elements are repeated.
    """

    mean: Tensor
    factors: Tensor
    variance: Tensor | None
    copies: tuple[int, ...]
    unit: int = 1

    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        ours = images(operator, a, self.factors)
        theirs = ours if a is b else images(operator, b, self.factors)
        total = (ours * theirs).sum(0)
        if self.variance is None:
            return total
        return total + operator(operator.cross(a, b), self.variance)

    def deviations(self, lead: Sequence[int], operator: Operator | None = None) -> Tensor:
        event = self.mean.shape[len(self.copies) :]
        rows = (*lead, event[0]) if len(event) > 1 else tuple(lead)
        z = noise.standard_normal((len(self.factors), *rows), self.mean)
        return self._sum(z, lead, operator)

    def _sum(self, z: Tensor, lead: Sequence[int], operator: Operator | None) -> Tensor:
        """Deviations for given noise of the rows, ``[J, *lead]`` or ``[J, *lead, rows]``."""
        event = self.mean.shape[len(self.copies) :]
        align = (lambda w: w) if operator is None else operator.align
        z = z.reshape(*z.shape, *[1] * (len(lead) + len(event) + 1 - z.dim()))
        total = sum(align(f) * number for f, number in zip(self.factors, z, strict=True))
        if self.variance is not None:
            fresh = noise.standard_normal((*lead, *event), self.mean)
            total = total + align(root(self.variance)) * fresh
        assert isinstance(total, Tensor)
        return total


@dataclass(frozen=True, eq=False)
class SharedMoments(RowMoments):
    """All outputs share a row of weights.

    Args:
        shared: the noise z of each example.
    """

    shared: "Shared" = field(kw_only=True)

    def fits(self, lead: Sequence[int]) -> bool:
        return self.shared.fits(lead)

    def centre(self, operator: Operator, a: Any, layout: Layout) -> Tensor:
        pairs = zip(layout.once, layout.kinds, strict=True)
        lead = [1 if kind is Kind.OUTPUT else n for n, kind in pairs]
        z = self.shared.noise(len(self.factors), lead, self.mean)
        return operator(a, self.mean) + (z * images(operator, a, self.factors)).sum(0)

    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        return operator(operator.cross(a, b), self.variance)  # pyright: ignore[reportArgumentType]

    def deviations(self, lead: Sequence[int], operator: Operator | None = None) -> Tensor:
        return self._sum(self.shared.noise(len(self.factors), lead, self.mean), lead, operator)


class Shared:
    """The noise of rows for each example, which all views of a random tensor share."""

    def __init__(self) -> None:
        self._noise: dict[tuple[int, ...], Tensor] = {}

    def noise(self, number: int, lead: Sequence[int], like: Tensor) -> Tensor:
        """Noise of shape ``[number, *lead]``, the same at every call for the same examples."""
        sizes = tuple(size for size in lead if size != 1)
        if sizes not in self._noise:
            self._noise[sizes] = noise.standard_normal((number, *sizes), like)
        return self._noise[sizes].reshape(number, *lead)

    def fits(self, lead: Sequence[int]) -> bool:
        """Whether examples of these dimensions are those that noise has been drawn for."""
        return not self._noise or tuple(size for size in lead if size != 1) in self._noise


@dataclass(frozen=True, eq=False)
class Factored(Law):
    """Rows, along the last dimension, with a covariance.

    Args:
        loc: the means, ``[..., I]``.
        factor: F, ``[..., I, J]``.
        diagonal: d, ``[..., I]``; zeros if None.
    """

    loc: Tensor
    factor: Tensor
    diagonal: Tensor | None = None
    shared: Shared = field(default_factory=Shared)

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [x for x in (self.loc, self.factor, self.diagonal) if x is not None]

    def for_one(self) -> Law:
        return replace(self, shared=Shared())

    def draw(self) -> Tensor:
        z = noise.standard_normal((*self.loc.shape[:-1], self.factor.shape[-1]), self.loc)
        value = self.loc + (self.factor @ z.unsqueeze(-1)).squeeze(-1)
        if self.diagonal is None:
            return value
        return value + root(self.diagonal) * noise.standard_normal(self.loc.shape, self.loc)

    def moments(
        self, steps: Sequence[Step], place: Tensor, operator: Operator | None
    ) -> Moments | None:
        event = 1 if operator is None else operator.event
        lead = place.dim() - event
        shared = self.diagonal is not None and self._is_within_rows(place, lead)
        if not shared and not self._are_rows(place, operator, lead):
            return None
        mean = compact(point(steps, self.loc), lead)
        factors = torch.vmap(lambda f: spread(steps, f))(self.factor.movedim(-1, 0))
        factors = factors.expand(-1, *place.shape)
        factors = torch.stack([compact(f, lead) for f in factors])
        var = None
        if self.diagonal is not None:
            var = compact(variance(steps, self.diagonal), lead)
        copies = copies_of(place, event)
        if shared:
            return SharedMoments(mean, factors, var, copies, shared=self.shared)
        return RowMoments(mean, factors, var, copies, unit=self.loc.shape[-1])

    def _are_rows(self, place: Tensor, operator: Operator | None, lead: int) -> bool:
        """Whether each output has a row of its own; a row cut to pieces is better drawn."""
        if operator is None:
            return place.shape[-1] == self.loc.shape[-1] and self._is_within_rows(place, lead)
        rows = lead + 1
        whole = place.shape[lead] > 1 or place.shape[rows:].numel() == self.loc.shape[-1]
        return operator.by_rows and whole and self._is_within_rows(place, rows)

    def _is_within_rows(self, place: Tensor, number: int) -> bool:
        """Whether a view stays within a row but for its first ``number`` dimensions."""
        length = self.loc.shape[-1]
        strides = list(zip(place.shape, place.stride(), strict=True))
        steps = all(n == 1 or stride % length == 0 for n, stride in strides[:number])
        span = sum((n - 1) * stride for n, stride in strides[number:])
        return steps and place.storage_offset() % length + span < length


def images(operator: Operator, a: Any, factors: Tensor) -> Tensor:
    """The layer's outputs for each of several weights, stacked."""
    return torch.vmap(lambda w: operator(a, w))(factors)
