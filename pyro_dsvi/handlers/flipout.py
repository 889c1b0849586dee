r"""Flipout: one deviation of the weights for all examples, its signs flipped for each.

.. math:: b_e = a_e \mu + s_e \odot ((a_e \odot r_e)\, \Delta), \qquad
    r_e, s_e \in \{-1, 1\} \text{ fair}

References:
    :cite:p:`wen2018flipout`
"""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.handlers.undrawn_sites import Select, UndrawnSites, wrapped
from pyro_dsvi.lazy import Plan


def flipout(
    *programs: Callable[..., Any], example_dims: int = 1, select: Select | None = None
) -> Any:
    """Decorrelate the examples' noise by signs of each on one deviation of Gaussian weights."""
    plan = Plan("flipout()", "flipout", "flipout", example_dims)
    return wrapped(UndrawnSites(plan, select), programs)
