r"""Flipout: one deviation of the weights for all examples, its signs flipped for each.

.. math:: b_e = a_e \mu + s_e \odot \big((a_e \odot r_e)\, \Delta\big), \qquad
    r_e, s_e \in \{-1, 1\} \text{ fair}

Each example's weights keep their law; two examples share the deviation's size but no sign, so their
noise is uncorrelated, though not independent: what is even in it they still share.

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
    """Decorrelate the examples' noise by signs of each on one deviation of Gaussian weights.

    It takes the place of :func:`local_reparameterization`, and all that is said there holds, but
    that the weights' deviations are drawn once for all examples.  It wants independent elements;
    weights of other laws are drawn as usual.  Looked up rows and biases are drawn for each example.

    Args:
        programs: none, a guide, or a model and a guide.
        example_dims: how many dimensions of a layer's input run over examples.
        select: which sites, by name.

    Returns:
        The context manager, the wrapped guide, or the wrapped model and guide.

    Raises:
        IncompatibleSite: as for :func:`local_reparameterization`.
        InvalidArgument: if an argument cannot work.

    References:
        :cite:p:`wen2018flipout`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal((x @ w.T).squeeze(-1), 0.1), obs=y)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> model, guide = dsvi.handlers.flipout(model, guide)
        >>> elbo = dsvi.PathwiseELBO(analytic_kl=True)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        >>> loss = svi.step(torch.ones(8, 3), torch.ones(8))
    """
    plan = Plan("flipout()", "flipout", "flipout", example_dims)
    return wrapped(UndrawnSites(plan, select), programs)
