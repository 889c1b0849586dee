"""The Gaussian laws of Pyro's distributions, as those of tensors that need not be drawn."""

from typing import Any

import pyro.distributions as dist

from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.lazy import Diagonal, Law


def gaussian_law(q: Any) -> Law | None:
    """The law of a distribution's draw, or None where it is not one of the known Gaussian laws.

    Args:
        q: a distribution, its batch dimensions expanded.
    """
    q = sampling_law(q)
    shape = q.shape() if hasattr(q, "shape") else None
    while type(q) is dist.Independent:
        q = q.base_dist
    if type(q) is dist.Normal and shape:
        return Diagonal(q.loc.expand(shape), q.scale.expand(shape))
    return None
