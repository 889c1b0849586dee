r"""The matrix normal: covariance between rows times covariance between columns.

.. math:: W = M + U Z V^\top, \quad \mathrm{Cov}[W_{oi}, W_{pk}] = (U U^\top)_{op} (V V^\top)_{ik}
    \quad\Longrightarrow\quad
    W a \sim \mathcal{N}(M a, \; \|V^\top a\|^2 \, U U^\top)

so an example's outputs are correlated as the rows are, with one variance for all.

References:
    :cite:p:`louizos2016structured`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.copies import compact, copies_of
from pyro_dsvi.lazy.laws.law import Law, Moments
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.operators.product import Product
from pyro_dsvi.lazy.step import Step, View, point


@dataclass(frozen=True, eq=False)
class KroneckerMoments(Moments):
    """Outputs that are correlated as the weight's rows are.

    Args:
        mean: the means, ``[..., o, i]``.
        across: triangular factor of the covariance between outputs, ``[..., o, o]``.
        along: the same between inputs, ``[..., i, i]``.
        copies: sizes of the left dimensions, one where the same elements are repeated.
    """

    mean: Tensor
    across: Tensor
    along: Tensor
    copies: tuple[int, ...]
    unit: int = 1  # a view is of all elements

    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        return ((a @ self.along) * (b @ self.along)).sum(-1, keepdim=True)

    def colour(self, noise: Tensor) -> Tensor:
        return noise @ self.across.mT

    def deviations(self, lead: Sequence[int], operator: Operator | None = None) -> Tensor:
        z = noise.standard_normal((*lead, *self.mean.shape[-2:]), self.mean)
        align = (lambda w: w) if operator is None else operator.align
        return align(self.across) @ z @ align(self.along).mT


@dataclass(frozen=True, eq=False)
class Kronecker(Law):
    """A matrix normal law; it gives noise to matrix products, by either side.

    Args:
        loc: the means, ``[..., rows, columns]``.
        row_factor: U, ``[..., rows, rows]``.
        column_factor: V, ``[..., columns, columns]``.
    """

    loc: Tensor
    row_factor: Tensor
    column_factor: Tensor

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self.loc, self.row_factor, self.column_factor

    def draw(self) -> Tensor:
        z = noise.standard_normal(self.loc.shape, self.loc)
        return self.loc + self.row_factor @ z @ self.column_factor.mT

    def moments(
        self, steps: Sequence[Step], place: Tensor, operator: Operator | None
    ) -> Moments | None:
        plain = all(isinstance(step, View) for step in steps)
        if type(operator) is not Product or not plain or place.numel() != self.loc.numel():
            return None
        size, strides = self.loc.shape[-1], place.stride()[-2:]
        if place.shape[-2:] == self.loc.shape[-2:] and strides == (size, 1):
            across, along = self.row_factor, self.column_factor
        elif place.shape[-2:] == self.loc.mT.shape[-2:] and strides == (1, size):
            across, along = self.column_factor, self.row_factor
        else:
            return None
        lead = place.dim() - 2
        if place.shape[:-2] != self.loc.shape[:-2]:
            return None
        mean, across, along = (compact(x, lead) for x in (point(steps, self.loc), across, along))
        return KroneckerMoments(mean, across, along, copies_of(place, 2))
