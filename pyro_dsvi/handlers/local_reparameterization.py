r"""Local reparameterization: noise at the outputs of a layer, in the place of its weights.

.. math:: b = a w, \quad w \sim \mathcal{N}(\mu, \sigma^2) \quad\Longrightarrow\quad
    b \sim \mathcal{N}(a \mu, \; a^2 \sigma^2)

Each example has noise of its own, so the terms of a minibatch of M share none: the variance of
their mean loses the part that does not fall with M.  What is left is smaller too, since an output
has one number of noise where its weights had many.

References:
    :cite:p:`kingma2015local`
"""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.handlers.undrawn_sites import Select, UndrawnSites, wrapped
from pyro_dsvi.lazy import Plan
from pyro_dsvi.lazy.plan import Way


def local_reparameterization(
    *programs: Callable[..., Any],
    conv: Way = "per_example",
    example_dims: int = 1,
    select: Select | None = None,
) -> Any:
    r"""Draw the outputs of layers, example by example, in the place of Gaussian weights.

    A handler: around a step, ``with local_reparameterization(): svi.step(x)``, or around the
    programs, ``model, guide = local_reparameterization(model, guide)``, as a compiled step wants
    it.  Around a guide alone it serves objectives of this package; it then sees neither the prior's
    density under Pyro's own, which is refused, nor the model's batch normalisation, which is not.

    The guide's draw of a weight becomes a tensor that carries its distribution.  Linear layers,
    ``@``, ``matmul``, ``einsum`` and their like, convolutions, embeddings, bilinear layers and
    attention's projections give outputs with noise of their own for each example; views, scaling
    and shifting by constants change the distribution.  Anything else draws the weight, once for
    all places that it is used in, which is right as well and gains nothing.

    The first dimension of what a weight is multiplied with has to run over examples, each a term of
    the bound by itself; what follows it, over positions within an example.  Where that is not so
    (sequences with time first, rows that are no data, a loss that ties the examples together),
    leave the weight out.

    What laws: ``Normal``, with ``to_event`` or without; ``MultivariateNormal`` and
    ``LowRankMultivariateNormal``, over the rows of a matrix or, of low rank, over whole layers;
    :class:`pyro_dsvi.distributions.MatrixNormal`.  Biases are drawn for each example.  A weight
    that comes again in the same way, as in a recurrent network, is drawn jointly with its earlier
    uses; where the joint law is not at hand, it is refused.  Sites inside plates, ``Predictive``
    and what has been left out by ``select`` are drawn as usual.

    The weight's own terms of the bound take a closed form under ``analytic_kl=True``, for which no
    weight is drawn; else they are taken at one draw, independent of the outputs.

    Args:
        programs: none, a guide, or a model and a guide.
        conv: how a weight is drawn that an example uses at several positions, as the kernel of a
            convolution.  ``"per_example"``: weights for each example, in one grouped convolution;
            exact.  ``"flipout"``: one deviation with signs of each example; exact, and cheaper
            where examples are many.  ``"marginal"``: noise of its own for each position; the
            cheapest, and biased, since positions lose their covariance: in the convolutional
            network of ``tests/test_local_bias.py``, which ends in a mean over positions, the
            gradient in the scales shrinks to .36 of its size.
        example_dims: how many dimensions of a layer's input, from the left and not counting
            particles, run over examples, which are terms of the bound by themselves.
        select: which sites, by name.

    Returns:
        The context manager, the wrapped guide, or the wrapped model and guide.

    Raises:
        IncompatibleSite: by name of the site, under a bound of several samples or frozen
            densities, where its estimator is not pathwise, where it is both drawn and used, where
            a joint law is not offered, and in front of batch normalisation that trains.
        InvalidArgument: if an argument cannot work.

    References:
        :cite:p:`kingma2015local`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal((x @ w.T).squeeze(-1), 0.1), obs=y)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> elbo = dsvi.PathwiseELBO(analytic_kl=True)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        >>> with dsvi.handlers.local_reparameterization():
        ...     loss = svi.step(torch.ones(8, 3), torch.ones(8))
    """
    plan = Plan("local_reparameterization()", "marginal", conv, example_dims)
    return wrapped(UndrawnSites(plan, select), programs)
