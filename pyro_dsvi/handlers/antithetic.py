r"""Antithetic particles: each pair shares its noise, once as drawn and once mirrored.

.. math:: \varepsilon_{2i+1} = -\varepsilon_{2i} \quad\text{or}\quad u_{2i+1} = 1 - u_{2i}

Every particle keeps its law, so a mean over particles keeps its expectation.  What is odd in the
noise cancels within a pair: the gradient of a cost that is linear in a Gaussian draw has no
variance left in its location.  What is even, a square, gains nothing from the pair and loses
half of its independent draws, so twice the variance is the worst that can happen.

References:
    :cite:p:`hammersley1956antithetic`, :cite:p:`owen2013`, :cite:p:`wu2019antithetic`
"""

from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from pyro_dsvi.handlers.coupling import Coupling, Seat
from pyro_dsvi.handlers.reparameterisation import Reparameterisation


class Antithetic(Coupling):
    """Mirrors the noise of every second particle; see :func:`antithetic`."""

    title: ClassVar[str] = "antithetic()"

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, Tensor] = {}

    def begin(self, seat: Seat) -> None:
        if seat.index % 2 == 0:
            self._first.clear()

    def noise(self, site: str, law: Reparameterisation, seat: Seat) -> Tensor:
        if seat.axis is not None:
            return _side_by_side(law, seat.count, seat.axis)
        if seat.index % 2 == 1:
            first = self._first.pop(site, None)
            # The first of the pair may have taken another branch of the program.
            if first is not None and first.shape == law.shape:
                return law.mirror(first)
            return law.fresh(law.shape)
        noise = law.fresh(law.shape)
        if seat.index + 1 < seat.count:
            self._first[site] = noise
        return noise


def _side_by_side(law: Reparameterisation, count: int, axis: int) -> Tensor:
    half = list(law.shape)
    half[axis] = (count + 1) // 2
    first = law.fresh(torch.Size(half))
    pairs = torch.stack([first, law.mirror(first)], axis + 1).flatten(axis, axis + 1)
    return pairs.narrow(axis, 0, count)


@overload
def antithetic(fn: None = None) -> Antithetic: ...


@overload
def antithetic(fn: Callable[..., Any]) -> Callable[..., Any]: ...


def antithetic(fn: Callable[..., Any] | None = None) -> Antithetic | Callable[..., Any]:
    """Draw particles in pairs with mirrored noise, at every reparameterised site.

    A handler: around a step, ``with antithetic(): svi.step()``, or around a guide,
    ``antithetic(guide)``.  Particles 0 and 1 are a pair, 2 and 3 are the next, side by side and in
    a loop alike; the last of an odd number has no partner.  Gaussian draws are mirrored about
    their mean, other draws of a real number about their median, and what is computed from either
    (flows, autoguides) through its base.  Sites whose noise cannot be controlled (discrete ones,
    rejection samplers, sites with a score function) are drawn as usual, which a warning says once.

    Args:
        fn: a guide to wrap, or None for a context manager.

    Returns:
        The wrapped guide, or the context manager, which can be used again and also wraps.

    Raises:
        IncompatibleSite: when a draw is met under a bound of several samples whose guide densities
            are frozen (DReG).

    Warns:
        DependentParticlesWarning: under any other bound of several samples.
        UncontrolledNoiseWarning: at a site that is left as it is.

    References:
        :cite:p:`hammersley1956antithetic`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> elbo = dsvi.PathwiseELBO(num_particles=8)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        >>> with dsvi.handlers.antithetic():
        ...     loss = svi.step()
    """
    handler = Antithetic()
    return handler if fn is None else handler(fn)
