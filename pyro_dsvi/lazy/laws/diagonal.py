"""Independent elements: the factorised Gaussian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.copies import compact, copies_of
from pyro_dsvi.lazy.laws.law import Law, Moments
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.roots import root
from pyro_dsvi.lazy.step import Step, point, variance


@dataclass(frozen=True, eq=False)
class Elementwise(Moments):
    """Means and variances of independent elements.

    Args:
        mean: the means.
        variance: the variances.
        copies: sizes of the left dimensions, one where the same elements are repeated.
    """

    mean: Any
    variance: Any
    copies: tuple[int, ...]
    unit: int = 1

    def with_bias(self, bias: "Elementwise") -> "Elementwise":
        """Those of a pair: a weight, and a bias that is independent of it."""
        return Elementwise((self.mean, bias.mean), (self.variance, bias.variance), self.copies)

    def covariance(self, operator: Operator, a: Any, b: Any) -> Tensor:
        return operator(operator.cross(a, b), self.variance)

    def deviations(self, lead: Sequence[int], operator: Operator | None = None) -> Tensor:
        std, event = root(self.variance), self.variance.shape[len(self.copies) :]
        std = std if operator is None else operator.align(std)
        return std * noise.standard_normal((*lead, *event), self.mean)


@dataclass(frozen=True, eq=False)
class Diagonal(Law):
    """Independent elements.

    Args:
        loc: the means.
        scale: the standard deviations, in the same shape.
    """

    loc: Tensor
    scale: Tensor
    flips = True

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self.loc, self.scale

    def draw(self) -> Tensor:
        return self.loc + self.scale * noise.standard_normal(self.loc.shape, self.loc)

    def moments(self, steps: Sequence[Step], place: Tensor, operator: Operator | None) -> Moments:
        event = 1 if operator is None else operator.event
        # Squared once for copies of the law that stand side by side.
        var = compact(self.scale).square().expand(self.scale.shape)
        lead = place.dim() - event
        mean, var = point(steps, self.loc), variance(steps, var)
        return Elementwise(compact(mean, lead), compact(var, lead), copies_of(place, event))
