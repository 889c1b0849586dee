r"""The noise behind a reparameterised draw, and the map that makes the draw of it.

.. math:: z = g(\varphi, \varepsilon), \qquad
    \varepsilon \sim \mathcal{N}(0, I) \;\text{ or }\; \mathcal{U}(0, 1)^d

Gaussian families keep their standard normal noise.  Others take uniform noise through the inverse
of their distribution function, :math:`z = F_\varphi^{-1}(u)`, which has the same law and the same
pathwise gradient as any other way to draw one real number.  A transformed distribution has the
noise of its base.

References:
    :cite:p:`devroye1986nonuniform`
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch import distributions as td
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_dsvi.estimators.law import tensors_of


@dataclass(frozen=True)
class Reparameterisation:
    """How a distribution makes a draw from noise.

    Attributes:
        shape: shape of the noise; its leading dimensions are the distribution's batch dimensions.
        gaussian: whether the noise is standard normal; else it is uniform on (0, 1).
        like: a tensor of the draw's dtype and device.
        value: the draw, given the noise.
    """

    shape: torch.Size
    gaussian: bool
    like: Tensor
    value: Callable[[Tensor], Tensor]

    def fresh(self, shape: torch.Size) -> Tensor:
        """Independent noise of the right kind, of any shape."""
        options: Any = {"dtype": self.like.dtype, "device": self.like.device}
        if self.gaussian:
            return torch.randn(shape, **options)
        return inside(torch.rand(shape, **options))

    def mirror(self, noise: Tensor) -> Tensor:
        """Noise of the same law on the other side of the median, each number by itself."""
        return -noise if self.gaussian else inside(1 - noise)

    def of_uniform(self, u: Tensor) -> Tensor:
        """The noise at given quantiles, in double precision until the end."""
        noise = torch.special.ndtri(inside(u.double())) if self.gaussian else u
        noise = noise.to(dtype=self.like.dtype, device=self.like.device)
        return noise if self.gaussian else inside(noise)


def inside(u: Tensor) -> Tensor:
    """Keep uniform numbers off 0 and 1, where an inverse distribution function is infinite."""
    eps = torch.finfo(u.dtype).eps
    return u.clamp(eps, 1 - eps)


def reparameterisation(q: Any) -> Reparameterisation | None:
    """The noise behind the draws of a distribution, or None where it cannot be controlled.

    Args:
        q: a distribution with ``rsample``.
    """
    return _of(q) if getattr(q, "has_rsample", False) else None


def _of(q: Any) -> Reparameterisation | None:
    if isinstance(q, (MaskedDistribution, td.Independent)):
        return _of(q.base_dist)
    if isinstance(q, ExpandedDistribution):
        return _expanded(q)
    # Known by the method itself, so that a class which draws in another way is not taken for one
    # of these.
    family = _FAMILIES.get(type(q).rsample)
    if family is not None and family is not _transformed:
        return family(q)
    if q.has_rsample and type(q).icdf not in _NO_ICDF and not q.event_shape:
        return Reparameterisation(q.batch_shape, False, _like(q), q.icdf)
    return family(q) if family is not None else None


def _normal(q: td.Normal) -> Reparameterisation:
    return Reparameterisation(q.batch_shape, True, q.loc, lambda noise: q.loc + q.scale * noise)


def _multivariate_normal(q: td.MultivariateNormal) -> Reparameterisation:
    return Reparameterisation(
        q.batch_shape + q.event_shape,
        True,
        q.loc,
        lambda noise: q.loc + _matvec(q._unbroadcasted_scale_tril, noise),
    )


def _low_rank_multivariate_normal(q: td.LowRankMultivariateNormal) -> Reparameterisation:
    rank = q.cov_factor.shape[-1]

    def value(noise: Tensor) -> Tensor:
        low, own = noise[..., :rank], noise[..., rank:]
        spread = _matvec(q._unbroadcasted_cov_factor, low)
        return q.loc + spread + q._unbroadcasted_cov_diag.sqrt() * own

    size = rank + q.event_shape[0]
    return Reparameterisation(torch.Size((*q.batch_shape, size)), True, q.loc, value)


def _logit_relaxed_bernoulli(q: LogitRelaxedBernoulli) -> Reparameterisation:
    return Reparameterisation(
        q.batch_shape, False, q.logits, lambda u: (q.logits + torch.logit(u)) / q.temperature
    )


def _exp_relaxed_categorical(q: ExpRelaxedCategorical) -> Reparameterisation:
    def value(u: Tensor) -> Tensor:
        return ((q.logits - (-u.log()).log()) / q.temperature).log_softmax(-1)

    return Reparameterisation(q.batch_shape + q.event_shape, False, q.logits, value)


def _transformed(q: td.TransformedDistribution) -> Reparameterisation | None:
    base = _of(q.base_dist)
    if base is None or _folds(q.transforms):
        return None

    def value(noise: Tensor) -> Any:
        x: Any = base.value(noise)
        for transform in q.transforms:
            x = transform(x)
        return x

    return replace(base, value=value)


def _folds(transforms: Any) -> bool:
    """Whether two opposite points become one, so that mirrored noise would give equal draws."""
    return any(
        isinstance(t, td.AbsTransform) or (isinstance(t, td.ComposeTransform) and _folds(t.parts))
        for t in transforms
    )


def _expanded(q: ExpandedDistribution) -> Reparameterisation | None:
    base = _of(q.base_dist)
    if base is None:
        return None
    return replace(base, shape=q.batch_shape + base.shape[len(q.base_dist.batch_shape) :])


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _like(q: Any) -> Tensor:
    return next(tensors_of(q))


_FAMILIES: dict[Any, Callable[[Any], Reparameterisation | None]] = {
    td.Normal.rsample: _normal,
    td.MultivariateNormal.rsample: _multivariate_normal,
    td.LowRankMultivariateNormal.rsample: _low_rank_multivariate_normal,
    LogitRelaxedBernoulli.rsample: _logit_relaxed_bernoulli,
    ExpRelaxedCategorical.rsample: _exp_relaxed_categorical,
    td.TransformedDistribution.rsample: _transformed,
}
_NO_ICDF = (td.Distribution.icdf, td.TransformedDistribution.icdf)
