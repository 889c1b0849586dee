r"""Gumbel-softmax: a categorical draw by its Gumbel noise, with a softmax for the maximum.

.. math:: z = \mathrm{softmax}\big((\log p + g) / \tau\big), \qquad g_v \sim \mathrm{Gumbel}(0, 1)

and for a bit :math:`z = \sigma((\mathrm{logit}\, p + l) / \tau)` with logistic l: the concrete
distributions.  At :math:`\tau \to 0` the draw is exact, and the gradient's variance infinite; at
any other temperature the gradient is that of another objective, so it is biased.

References:
    :cite:p:`maddison2017concrete`, :cite:p:`jang2017gumbel`
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn.functional import one_hot

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.estimators.relaxation import Relaxation


@dataclass(frozen=True)
class GumbelSoftmax(Relaxation):
    """Relaxed draws at a temperature, for Bernoulli and OneHotCategorical sites; biased.

    The loss is that of relaxed values and no bound on the log evidence, unless ``hard``: then the
    value is the discrete draw itself, of exactly the guide's law, and only the gradient is that of
    the relaxed one (straight-through Gumbel-softmax).

    Both programs' log densities are extended linearly to the values between the points, see
    :func:`~pyro_dsvi.estimators.relaxation.extended_log_prob`; so the model has a Bernoulli or
    OneHotCategorical there, too.

    Args:
        temperature: a positive number, a scalar tensor (which may be learnt), or a function
            without arguments that gives one, asked at every draw: a schedule.
        hard: whether the value is discrete.

    Raises:
        InvalidArgument: if the temperature is not positive, or no scalar.

    References:
        :cite:p:`maddison2017concrete`, :cite:p:`jang2017gumbel`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> relaxed = dsvi.estimators.GumbelSoftmax(temperature=0.5)
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": relaxed})
    """

    temperature: float | Tensor | Callable[[], float | Tensor]
    hard: bool = False

    def __post_init__(self) -> None:
        if not callable(self.temperature):
            _check(self.temperature)
        if not isinstance(self.hard, bool):
            raise InvalidArgument(f"GumbelSoftmax: hard must be True or False, got {self.hard!r}")

    def draw(self, q: Any) -> Tensor:
        temperature = self.temperature
        if callable(temperature):
            temperature = temperature()
            _check(temperature)
        core = innermost(q)
        logits = core.logits.expand(q.shape())
        # As far from 0 and 1 as torch keeps the noise of its relaxed distributions.
        eps = torch.finfo(logits.dtype).eps
        u = torch.rand_like(logits).clamp(eps, 1 - eps)
        if isinstance(core, Bernoulli):
            scores = logits + torch.logit(u)
            soft, point = torch.sigmoid(scores / temperature), scores > 0
        else:
            scores = logits - (-u.log()).log()
            soft = torch.softmax(scores / temperature, -1)
            point = one_hot(scores.argmax(-1), logits.shape[-1])
        return through(point.to(soft), soft) if self.hard else soft


def through(value: Tensor, carrier: Tensor) -> Tensor:
    """The value, to the last bit, with the gradient of the carrier."""
    return value + (carrier - carrier.detach())


def _check(temperature: Any) -> None:
    scalar = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not scalar and not (isinstance(temperature, Tensor) and temperature.dim() == 0):
        raise InvalidArgument(
            f"GumbelSoftmax: temperature must be a number, a scalar tensor or a function that "
            f"gives one, got {temperature!r}"
        )
    if not 0 < float(torch.as_tensor(temperature).detach()) < float("inf"):
        raise InvalidArgument(f"GumbelSoftmax: temperature must be positive, got {temperature!r}")
