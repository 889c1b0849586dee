r"""Warm-up of the divergence: latent densities count little at first, and fully from then on.

.. math:: \mathbb{E}_q \log p(x \mid z) - \beta\,\mathrm{KL}(q \,\|\, p), \qquad
    \beta = \min\big(1, \max(0, t - t_0) / T\big)

Training may otherwise give up weights, or units of a code, before the likelihood has had a use for
them.  The factor is a tensor that is changed in place, so that a compiled step, which keeps Python
numbers as they were, follows it as an eager one does.

References:
    :cite:p:`bowman2016generating`, :cite:p:`molchanov2017variational`
"""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_dsvi.errors import InvalidArgument


class WarmUp(Messenger):
    """Scales latent sites; see :func:`warm_up`.

    Attributes:
        factor: the present factor β, a tensor changed in place.
        elapsed: how often :meth:`advance` was called, likewise.
    """

    def __init__(self, length: int, wait: int) -> None:
        super().__init__()
        self.length = length
        self.wait = wait
        # A compiled step takes a number that changes for a reason not to replay it.
        self.elapsed = torch.zeros((), dtype=torch.int64)
        self.factor = torch.zeros(())

    def advance(self) -> float:
        """Go one step further; the new factor."""
        self.elapsed += 1
        ramp = (int(self.elapsed) - self.wait) / self.length
        factor = min(1.0, max(0.0, ramp))
        self.factor.fill_(factor)
        return factor

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        scale = msg["scale"]
        # The very same tensor in model and guide: they are then seen to weigh the same.
        plain = type(scale) is float and scale == 1.0
        msg["scale"] = self.factor if plain else scale * self.factor


def warm_up(length: int, *, wait: int = 0) -> WarmUp:
    """Let latent densities, of model and guide alike, come in over the first steps.

    A handler: put it around both programs, ``ramp(model)`` and ``ramp(guide)``, and call
    ``ramp.advance()`` after each step.  Observed sites keep their weight.  Right in compiled steps.

    Args:
        length: steps over which the factor goes from 0 to 1.
        wait: steps before that at 0.

    Returns:
        The handler, which holds the present factor.

    Raises:
        InvalidArgument: if the length is not positive, or the wait is negative.

    References:
        :cite:p:`bowman2016generating`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> ramp = dsvi.handlers.warm_up(100)
        >>> elbo, optim = dsvi.PathwiseELBO(analytic_kl=True), pyro.optim.Adam({"lr": 0.01})
        >>> svi = pyro.infer.SVI(ramp(model), ramp(guide), optim, elbo)
        >>> loss = svi.step()
        >>> ramp.advance()
        0.01
    """
    if not length > 0 or not wait >= 0:
        raise InvalidArgument(
            f"warm_up: length={length}, wait={wait}; give a positive length and a wait of at "
            "least 0"
        )
    return WarmUp(length, wait)
