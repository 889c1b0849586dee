r"""A control variate at relaxed values, trained to lower the variance of the step it serves in.

With b = H(z) the hard draw, :math:`z \sim q(z)`, :math:`\tilde z \sim q(z \mid b)`, and any
function c of a relaxed value,

.. math:: \nabla_\varphi \mathbb{E}[f(b)] = \mathbb{E}\Big[
    \big(f(b) - c(\sigma_\lambda(\tilde z))\big) \nabla_\varphi \log q(b)
    + \nabla_\varphi c(\sigma_\lambda(z)) - \nabla_\varphi c(\sigma_\lambda(\tilde z))\Big]

where the last two differentiate through z and :math:`\tilde z` at held noise.  The noise behind
:math:`\tilde z` is chosen so that :math:`\tilde z = z`: c is evaluated once, and the two slopes
differ only in how far z follows the parameters with b let go and with b held.  A constant is
taken off what c leaves of f.

It holds at every temperature :math:`\lambda` and every c, so the gradient of :math:`\hat g^2` in
what they depend on is one of the variance.

References:
    :cite:p:`tucker2017rebar`, :cite:p:`grathwohl2018relax`
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.baselines.baseline import PerSite
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.hindsight import Noise, noise_behind
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.estimators.relaxation import extended_log_prob

_DECAY = 0.95  # of the sums over past steps


class Control(NamedTuple):
    """A control variate c at the relaxed value, in nats.

    Attributes:
        credit: c for each particle and plate element, shape ``[K, *plates]``.
        total: the same summed, each cost once, a scalar.
    """

    credit: Tensor
    total: Tensor


class Relaxed(NamedTuple):
    """A relaxed value, and what it was computed from; all shapes are that of the hard point."""

    kind: Noise
    logits: Tensor
    noise: Tensor
    point: Tensor
    z: Tensor
    value: Tensor


class Learnt(torch.nn.Module):
    """What a relaxed control variate learns: its temperature, its coefficient, a network.

    And, by site, decayed sums over past steps: of the moments that give the best constant, and of
    the mean square, the unit of the loss.

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
        self.sums = PerSite()
        self._seen: dict[str, list[Tensor]] = {}

    def less_constant(self, site: str, weight: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient less the best constant baseline, and the loss to train the rest by.

        The constant minimises the mean square in closed form, on past steps alone.  In units of
        past mean squares the loss has a gradient of order one whatever the credit's scale, and at
        the first step too, which no constant has seen coming.

        Args:
            site: the site's name.
            weight: the gradient in the logits, per datum, differentiable in what is learnt.
            score: the gradient of the log probability there, of the same shape.
        """
        cross, square, size, count = self.sums.row(site, 4, weight.detach())
        less = weight - torch.where(square > 0, cross / square, 0.0) * score
        now = less.square().mean()
        with torch.no_grad():
            seen = [(weight * score).mean(), score.square().mean(), now, torch.ones_like(now)]
            self._seen.setdefault(site, []).append(torch.stack(seen))
            unit = (now + size) / (1 + count)
        return less, now / torch.where(unit > 0, unit, 1.0)

    @torch.no_grad()
    def settle(self, site: str) -> None:
        """Let this step become the past."""
        for seen in self._seen.pop(site, []):
            row = self.sums.row(site, 4, seen)
            row.copy_(torch.where(seen.isfinite().all(), _DECAY * row + seen, row))

    def inherit(self, previous: torch.nn.Module) -> None:
        """Go on with the very parameters of one that served before, and its optimizer's state."""
        if not isinstance(previous, Learnt):
            return
        self.log_temperature, self.sums = previous.log_temperature, previous.sums
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
    def control(self, visit: Visit, value: Tensor) -> Control:
        """The control variate at the relaxed value."""

    def score(self, q: Any, value: Tensor) -> Tensor:
        law = sampling_law(q)
        return extended_log_prob(law, value) if self.evaluates else law.log_prob(value)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        kind = _noise_behind(q)
        logits, point = kind.logits(q, value).detach(), kind.point(q, value)
        noise = kind.draw(logits)
        z = kind.given(logits, noise, point).requires_grad_()
        relaxed = kind.relax(z, self.learnt.log_temperature.exp())
        asked = relaxed.unsqueeze(0) if self.evaluates else value.unsqueeze(0)[:0]
        found_again = Relaxed(kind, logits, noise, point, z, relaxed)
        return Counterfactual(asked, slopes=True, noise=found_again)

    def stand_in(self, q: Any) -> Tensor | None:
        if not self.evaluates:
            return None
        kind = _noise_behind(q)
        logits = kind.logits(q, torch.empty(q.shape(), device="meta"))
        z = kind.free(logits, kind.draw(logits.detach()))
        return kind.relax(z, self.learnt.log_temperature.detach().exp())

    def surrogate(self, visit: Visit) -> Surrogate:
        assert visit.counterfactual is not None
        kind, logits, noise, point, z, value = visit.counterfactual.noise
        credit, total = self.control(visit, value)
        slope = torch.zeros_like(z)
        if total.requires_grad:
            (slope,) = torch.autograd.grad(total, z, create_graph=True)
        left = visit.per_value(visit.credit - credit)
        if left.dim() < z.dim():
            left = left.unsqueeze(-1)  # an index has no axis of categories, its point has
        score = kind.score(logits, point)
        weight = left * score + kind.let_go(logits, noise, point, slope)
        weight, loss = self.learnt.less_constant(visit.site, weight / visit.scale, score)
        live = kind.logits(visit.q, visit.value)
        return Surrogate.sum((weight * visit.scale, live), auxiliary=loss)

    def update(self, visit: Visit) -> None:
        self.learnt.settle(visit.site)


def _noise_behind(q: Any) -> Noise:
    kind = noise_behind(q)
    assert kind is not None  # else there was an objection
    return kind


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
