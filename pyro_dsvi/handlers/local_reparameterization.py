r"""Local reparameterization: noise at the outputs of a layer, in the place of its weights.

.. math:: b = a w, \quad w \sim \mathcal{N}(\mu, \sigma^2) \quad\Longrightarrow\quad
    b \sim \mathcal{N}(a \mu, a^2 \sigma^2)

Each example has noise of its own, so the terms of a minibatch of M no longer share any: the
variance of its mean loses the part that does not fall with M, and what is left is smaller too,
since an output has one number of noise where its weights had many.

References:
    :cite:p:`kingma2015local`
"""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.handlers.undrawn_sites import Select, UndrawnSites, wrapped
from pyro_dsvi.lazy import Plan


def local_reparameterization(
    *programs: Callable[..., Any],
    conv: Any = "per_example",
    example_dims: int = 1,
    select: Select | None = None,
) -> Any:
    """Draw the outputs of layers, example by example, in the place of Gaussian weights."""
    plan = Plan("local_reparameterization()", "marginal", conv, example_dims)
    return wrapped(UndrawnSites(plan, select), programs)
