r"""The coefficient of least variance for a control variate, fitted where it cannot bias.

.. math:: \hat g_k = G_k + a_k C_k, \qquad
    a_k = -\frac{S_{GC} + \sum_{j \ne k} G_j \cdot C_j}{S_{CC} + \sum_{j \ne k} C_j \cdot C_j}

S are the decayed sums of past steps, j the other particles of this one: whatever they say of a, it
is independent of the draw behind :math:`C_k`, whose mean stays zero (cross-fitting).  Under a bound
that ties the particles together each one's C depends on all, so past steps alone are used.

References:
    :cite:p:`greensmith2004`, :cite:p:`ranganath2014bbvi`
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.baselines.baseline import PerSite
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.controlled import Controlled, Part
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate


class Moments(torch.nn.Module):
    """Decayed sums of G·C and C·C by site, one pair for each parameter of its distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = PerSite()
        self._seen: dict[str, list[Tensor]] = {}

    def coefficients(self, visit: Visit, cross: Tensor, square: Tensor, limit: float) -> Tensor:
        """Coefficient for each parameter and particle, shape ``[parts, K]``; 1 at the very start.

        Args:
            visit: the visit.
            cross: each particle's G·C, shape ``[parts, K]``.
            square: each particle's C·C, of the same shape.
            limit: the largest magnitude of a coefficient.
        """
        past = self.sums.row(visit.site, 2 * len(cross), cross).reshape(2, -1, 1)
        now = torch.stack([cross, square])
        self._seen.setdefault(visit.site, []).append(now.sum(-1))
        if visit.separate:
            # The total less one's own would let it in again by rounding.
            mine = torch.eye(now.shape[-1], dtype=torch.bool, device=now.device)
            others = torch.where(mine, 0.0, now.unsqueeze(-2)).sum(-1)
            past = past + others
        top, bottom = past
        ratio = torch.where(bottom > 0, -top / bottom, torch.ones_like(bottom))
        return torch.nan_to_num(ratio, nan=1.0).clamp(-limit, limit).expand_as(cross)

    def settle(self, site: str, decay: float) -> None:
        """Let this step become the past."""
        seen = self._seen.pop(site, None)
        if not seen:
            return
        total = torch.stack(seen).sum(0).flatten()
        row = self.sums.row(site, len(total), total)
        row.copy_(torch.where(total.isfinite().all(), decay * row + total, row))

    def inherit(self, previous: torch.nn.Module) -> None:
        """Go on from the sums of one that served the same site before."""
        if isinstance(previous, Moments):
            self.sums = previous.sums


@dataclass(frozen=True, eq=False)
class OptimalScale(Controlled):
    """Multiplies the control variate of another estimator by the coefficient found best, online.

    One coefficient for each parameter of the site's distribution.  At a site whose value carries
    the gradient, one more evaluation of the programs tells what that gradient is.  For baselines
    there is ``dsvi.baselines.OptimalScale``; REBAR learns its coefficient by itself.

    Args:
        estimator: ``Taylor()`` or ``Delta()``.
        decay: weight of the past in the running sums, in [0, 1).
        limit: the largest magnitude of the coefficient, positive: ratios of a few particles'
            moments have heavy tails.

    Raises:
        InvalidArgument: if ``estimator`` has no control variate to scale, ``decay`` is outside
            [0, 1) or ``limit`` is not positive.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> scaled = dsvi.estimators.OptimalScale(dsvi.estimators.Taylor())
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": scaled})
    """

    estimator: Controlled
    decay: float = field(default=0.95, kw_only=True)
    limit: float = field(default=2.0, kw_only=True)
    moments: Moments = field(default_factory=Moments, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.estimator, Controlled) or isinstance(self.estimator, OptimalScale):
            given = self.estimator
            name = type(given).__name__ if isinstance(given, Estimator) else repr(given)
            raise InvalidArgument(
                f"OptimalScale: {name} has no control variate to scale; give it "
                "Taylor() or Delta(), and scale a baseline by dsvi.baselines.OptimalScale"
            )
        if not 0 <= self.decay < 1:
            raise InvalidArgument(f"OptimalScale: decay must be in [0, 1), got {self.decay}")
        if not self.limit > 0:
            raise InvalidArgument(f"OptimalScale: limit must be positive, got {self.limit}")

    @property
    def bias(self) -> Bias:
        return self.estimator.bias

    @property
    def passes_gradient(self) -> bool:
        return self.estimator.passes_gradient

    @property
    def learner(self) -> torch.nn.Module:
        return self.moments

    def objection(self, q: Any) -> str | None:
        return self.estimator.objection(q)

    def score(self, q: Any, value: Tensor) -> Tensor:
        return self.estimator.score(q, value)

    def stand_in(self, q: Any) -> Tensor | None:
        return self.estimator.stand_in(q)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual | None:
        asked = self.estimator.counterfactual(q, value)
        if asked is None or not self.passes_gradient:
            return asked
        values = torch.cat([asked.values, value.unsqueeze(0)])
        return Counterfactual(values, asked.slopes, asked.noise)

    def parts(self, visit: Visit) -> list[Part]:
        return self.estimator.parts(visit)

    def surrogate(self, visit: Visit) -> Surrogate:
        parts = self.parts(visit)
        rows = len(visit.credit)
        pairs = [_moments(part, rows) for part in parts]
        cross = torch.stack([pair[0] for pair in pairs])
        square = torch.stack([pair[1] for pair in pairs])
        coefficients = self.moments.coefficients(visit, cross, square, self.limit)
        shaped = [
            a.reshape(-1, *(1,) * (part.control.dim() - 1)) if rows > 1 else a
            for a, part in zip(coefficients, parts, strict=True)
        ]
        return self.combine(parts, shaped)

    def update(self, visit: Visit) -> None:
        self.moments.settle(visit.site, self.decay)


def _moments(part: Part, rows: int) -> tuple[Tensor, Tensor]:
    """Each particle's G·C and C·C, shape ``[K]``."""
    assert part.gradient is not None  # asked for
    cross, square = part.gradient * part.control, part.control.square()
    return cross.reshape(rows, -1).sum(-1), square.reshape(rows, -1).sum(-1)
