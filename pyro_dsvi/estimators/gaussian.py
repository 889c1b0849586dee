r"""A Gaussian draw as location, factor and noise, and what its parameters feel of a slope.

.. math:: z = \mu + A\,\varepsilon, \qquad
    \nabla_\mu f(z) = g, \quad \nabla_A f(z) = g\,\varepsilon^\top, \qquad g = \nabla f(z)
    \\
    \nabla_\mu \log q(z) = A^{-\top} \varepsilon, \qquad
    \nabla_A \log q(z) = A^{-\top} (\varepsilon \varepsilon^\top - I)

A is diagonal at a Normal site and lower triangular at a MultivariateNormal one; the draw moves with
every entry it is given, the density with those on and below the diagonal.

References:
    :cite:p:`titsias2014dsvi`
"""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.linalg import solve_triangular

from pyro_dsvi.estimators.law import innermost


class Gaussian(NamedTuple):
    """A Gaussian site's distribution; N is the number of dimensions that A mixes.

    Attributes:
        loc: the mean, live, in the value's shape ``[..., N]``.
        factor: A, live: ``[..., N, N]``, or its diagonal ``[..., N]``.
        full: whether A is a matrix.
    """

    loc: Tensor
    factor: Tensor
    full: bool

    def noise(self, value: Tensor) -> Tensor:
        r"""The noise :math:`\varepsilon` behind a value, without gradient."""
        centred, factor = (value - self.loc).detach(), self.factor.detach()
        if not self.full:
            return centred / factor
        return solve_triangular(factor, centred.unsqueeze(-1), upper=False).squeeze(-1)

    def stretch(self, noise: Tensor) -> Tensor:
        r""":math:`A \varepsilon`, without gradient."""
        factor = self.factor.detach()
        return (factor @ noise.unsqueeze(-1)).squeeze(-1) if self.full else factor * noise

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """Left times right transposed: of all entries, or of those on the diagonal."""
        return left.unsqueeze(-1) * right.unsqueeze(-2) if self.full else left * right

    def own(self, x: Tensor) -> Tensor:
        """Those entries that the density has a gradient in: not the ones above the diagonal."""
        return x.tril() if self.full else x

    def scores(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the log density in the mean and in A, at the value behind the noise."""
        factor = self.factor.detach()
        if not self.full:
            return noise / factor, (noise.square() - 1) / factor
        solved = solve_triangular(factor.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        by_factor = self.own(self.outer(solved, noise))
        return solved, by_factor - torch.diag_embed(1 / factor.diagonal(dim1=-2, dim2=-1))

    def per_entry(self, x: Tensor) -> Tensor:
        """Numbers that multiply the value, ``[..., 1]`` or ``[..., N]``, to multiply A's rows."""
        return x.unsqueeze(-1) if self.full else x


def gaussian(q: Any, value: Tensor) -> Gaussian:
    """Read a Gaussian site's distribution, behind the wrappers around it.

    Args:
        q: a distribution to which :func:`gaussian_objection` has none.
        value: its draw.
    """
    core = innermost(q)
    if isinstance(core, dist.Normal):
        return Gaussian(core.loc.expand(value.shape), core.scale.expand(value.shape), False)
    factor = core.scale_tril
    return Gaussian(core.loc.expand(value.shape), factor.expand(*value.shape, -1), True)


def gaussian_objection(q: Any) -> str | None:
    """Why a distribution is not read as a Gaussian; None if it is."""
    core = innermost(q)
    if type(core) in (dist.Normal, dist.MultivariateNormal):
        if getattr(q, "has_rsample", False):
            return None
        return f"this {type(core).__name__} says that it has no rsample"
    return (
        f"{type(core).__name__} is neither a Normal nor a MultivariateNormal, so its mean and "
        "noise are not known; use dsvi.estimators.Pathwise() or ScoreFunction() here"
    )
