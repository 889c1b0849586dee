r"""A control variate at relaxed values, trained to lower the variance of the step it serves in.

With b = H(z) the hard draw, :math:`z \sim q(z)`, :math:`\tilde z \sim q(z \mid b)`, and any
function c of a relaxed value,

.. math:: \nabla_\varphi \mathbb{E}[f(b)] = \mathbb{E}\Big[
    \big(f(b) - c(\sigma_\lambda(\tilde z))\big) \nabla_\varphi \log q(b)
    + \nabla_\varphi c(\sigma_\lambda(z)) - \nabla_\varphi c(\sigma_\lambda(\tilde z))\Big]

where the last two differentiate through z and :math:`\tilde z` at held noise.  It holds at every
temperature :math:`\lambda` and every c, so the gradient of :math:`\hat g^2` in what they depend on
is one of the variance; :math:`\hat g` is taken in the distribution's logits, which stand for the
parameters behind them.

References:
    :cite:p:`tucker2017rebar`, :cite:p:`grathwohl2018relax`
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.hindsight import Noise, noise_behind
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.estimators.relaxation import extended_log_prob


class Control(NamedTuple):
    """A control variate c at the relaxed values of z and of z̃.

    Attributes:
        given: c at z̃ in nats, per particle and plate element, shape ``[K, *plates]``.
        totals: c at z and at z̃, summed with each cost once, shape ``[2]``.
    """

    given: Tensor
    totals: Tensor


class Relaxed(NamedTuple):
    """Relaxed values of z and z̃, shape ``[2, *point.shape]``, and what they were computed from."""

    noise: Noise
    logits: Tensor
    point: Tensor
    values: Tensor


class Learnt(torch.nn.Module):
    """What a relaxed control variate learns: its temperature, its coefficient, a network.

    Args:
        temperature: start value, positive; kept as its logarithm.
        scale: start value of the model's coefficient, or None.
        net: the network, or None.
    """

    def __init__(
        self, temperature: float, scale: float | None, net: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.log_temperature = torch.nn.Parameter(torch.tensor(float(temperature)).log())
        self.scale = None if scale is None else torch.nn.Parameter(torch.tensor(float(scale)))
        self.net = net

    def inherit(self, previous: torch.nn.Module) -> None:
        """Go on with the very parameters of one that served before, and its optimizer's state."""
        if not isinstance(previous, Learnt):
            return
        self.log_temperature = previous.log_temperature
        if self.scale is not None and previous.scale is not None:
            self.scale = previous.scale


class RelaxedControl(Estimator):
    """Score function with a control variate at relaxed values; of hard draws, and unbiased."""

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False
    learnt: Learnt

    @property
    def learner(self) -> torch.nn.Module:
        return self.learnt

    @property
    def evaluates(self) -> bool:
        """Whether the programs are run at relaxed values."""
        return self.learnt.scale is not None

    @abstractmethod
    def control(self, visit: Visit, values: Tensor) -> Control:
        """The control variate at the relaxed values of z and z̃."""

    def score(self, q: Any, value: Tensor) -> Tensor:
        law = sampling_law(q)
        return extended_log_prob(law, value) if self.evaluates else law.log_prob(value)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        noise = noise_behind(q)
        assert noise is not None  # else there was an objection
        logits = noise.logits(q, value).detach().requires_grad_()
        point = noise.point(q, value)
        temperature = self.learnt.log_temperature.exp()
        scores = torch.stack([noise.shared(logits, point), noise.given(logits, point)])
        values = noise.relax(scores, temperature)
        asked = values if self.evaluates else values.detach()[:0]
        return Counterfactual(asked, slopes=True, noise=Relaxed(noise, logits, point, values))

    def stand_in(self, q: Any) -> Tensor | None:
        if not self.evaluates:
            return None
        noise = noise_behind(q)
        assert noise is not None  # else there was an objection
        logits = noise.logits(q, torch.empty(q.shape(), device="meta"))
        return noise.relax(noise.free(logits), self.learnt.log_temperature.detach().exp())

    def surrogate(self, visit: Visit) -> Surrogate:
        assert visit.counterfactual is not None
        noise, logits, point, values = visit.counterfactual.noise
        given, totals = self.control(visit, values)
        slope = torch.zeros_like(logits)
        if totals.requires_grad:
            (slope,) = torch.autograd.grad(totals[0] - totals[1], logits, create_graph=True)
        credit = visit.per_value(visit.credit - given)
        if credit.dim() < logits.dim():
            credit = credit.unsqueeze(-1)  # an index has no axis of categories, its point has
        weight = credit * noise.score(logits.detach(), point) + slope
        auxiliary = (weight / visit.scale).square().mean()
        return Surrogate.sum((weight, noise.logits(visit.q, visit.value)), auxiliary=auxiliary)


def checked_temperature(estimator: str, temperature: float) -> float:
    """The start value of a temperature.

    Raises:
        InvalidArgument: if it is not a positive number.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise InvalidArgument(f"{estimator}: temperature must be a number, got {temperature!r}")
    if not 0 < temperature < float("inf"):
        raise InvalidArgument(f"{estimator}: temperature must be positive, got {temperature!r}")
    return float(temperature)


def checked_scale(estimator: str, scale: float) -> float:
    """The start value of a coefficient.

    Raises:
        InvalidArgument: if it is not a finite number.
    """
    finite = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not finite or abs(scale) == float("inf") or scale != scale:
        raise InvalidArgument(f"{estimator}: scale must be a finite number, got {scale!r}")
    return float(scale)
