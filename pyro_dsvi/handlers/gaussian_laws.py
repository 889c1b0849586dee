"""The Gaussian laws of Pyro's distributions, as those of tensors that need not be drawn."""

from typing import Any

import pyro.distributions as dist

from pyro_dsvi.distributions import MatrixNormal
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.lazy import Diagonal, Factored, Kronecker, Law


def gaussian_law(q: Any) -> Law | None:
    """The law of a distribution's draw, or None where it is not one of the known Gaussian laws.

    A ``MultivariateNormal`` or ``LowRankMultivariateNormal`` has rows, along its one event
    dimension; a layer is one row if its weights are a view of one.

    Args:
        q: a distribution, its batch dimensions expanded.
    """
    q = sampling_law(q)
    while type(q) is dist.Independent:
        q = q.base_dist
    if isinstance(q, dist.Normal) and type(q).rsample is dist.Normal.rsample:
        return Diagonal(q.loc, q.scale) if q.batch_shape else None
    shape: Any = q.shape() if hasattr(q, "shape") else ()
    if type(q) is dist.MultivariateNormal:
        tril = q._unbroadcasted_scale_tril
        return Factored(q.loc, tril.expand(*shape, shape[-1]))
    if type(q) is dist.LowRankMultivariateNormal:
        factor, diagonal = q._unbroadcasted_cov_factor, q._unbroadcasted_cov_diag
        return Factored(q.loc, factor.expand(*shape, factor.shape[-1]), diagonal.expand(shape))
    if type(q) is MatrixNormal:
        return Kronecker(q.loc, q.row_tril, q.column_tril)
    return None
