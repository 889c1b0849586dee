r"""The noise behind a hard draw, drawn after the event, given the draw.

A bit is the sign of :math:`z = l + \mathrm{logit}\,u`, a category the largest of
:math:`z_v = \log p_v - \log(-\log u_v)`.  Whoever made the draw, the law of z given it is known,
and has a reparameterisation by uniform v of its own:

.. math:: \tilde z = \mathrm{softplus}\big(\mathrm{logit}\,v + \mathrm{softplus}(l)\big)
    \text{ given } b = 1, \qquad
    \tilde z_w = -\log(-\log v_w), \quad
    \tilde z_v = -\log\Big(\frac{-\log v_v}{p_v} - \log v_w\Big) \text{ given category } w

(and the mirror image of the first, at -l, given b = 0).

References:
    :cite:p:`tucker2017rebar`, :cite:p:`maddison2017concrete`
"""

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from pyro_dsvi.estimators.law import innermost

_IMPOSSIBLE = -1e4  # nats: as good as minus infinity, but 0 times it is 0


class Noise(ABC):
    """Scores z of which a hard draw is a function; all shapes are the logits'."""

    def logits(self, q: Any, value: Tensor) -> Tensor:
        """The distribution's logits, live, in the shape of its value's points."""
        return innermost(q).logits.expand(value.shape)

    def point(self, q: Any, value: Tensor) -> Tensor:
        """The hard draw as a point of the space that relaxed values lie in."""
        return value

    @abstractmethod
    def draw(self, like: Tensor) -> Tensor:
        """Noise of the standard law, the same whatever the logits."""

    @abstractmethod
    def free(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Scores of a draw yet to be made, differentiable in the logits."""

    @abstractmethod
    def given(self, logits: Tensor, noise: Tensor, point: Tensor) -> Tensor:
        """Scores given the hard draw, differentiable in the logits."""

    @abstractmethod
    def relax(self, z: Tensor, temperature: Tensor) -> Tensor:
        """The relaxed value of scores; the hard one in the limit of temperature zero."""

    @abstractmethod
    def score(self, logits: Tensor, point: Tensor) -> Tensor:
        """Gradient of the hard draw's log probability in the logits."""

    def let_go(self, logits: Tensor, noise: Tensor, point: Tensor, slope: Tensor) -> Tensor:
        """What a slope in z is worth in the logits with the draw free, less with it held.

        Args:
            logits: the distribution's logits.
            noise: the noise behind the scores given the draw.
            point: the hard draw.
            slope: the slope in z.

        Returns:
            Slope in the logits, without gradient there, but differentiable in ``slope``.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            # Free scores move with the logits alike whatever their noise, so any will do.
            moved = self.free(leaf, noise) - self.given(leaf, noise, point)
            (worth,) = torch.autograd.grad(moved, leaf, slope, create_graph=True)
        return worth


class Logistic(Noise):
    """Logistic noise behind bits."""

    def draw(self, like: Tensor) -> Tensor:
        return torch.logit(torch.rand_like(like), torch.finfo(like.dtype).tiny)

    def free(self, logits: Tensor, noise: Tensor) -> Tensor:
        return logits + noise

    def given(self, logits: Tensor, noise: Tensor, point: Tensor) -> Tensor:
        sign = 2 * point - 1
        return sign * softplus(noise + softplus(sign * logits))

    def relax(self, z: Tensor, temperature: Tensor) -> Tensor:
        return torch.sigmoid(z / temperature)

    def score(self, logits: Tensor, point: Tensor) -> Tensor:
        return point - torch.sigmoid(logits)


class Gumbel(Noise):
    """Gumbel noise behind one-hot vectors."""

    def draw(self, like: Tensor) -> Tensor:
        tiny = torch.finfo(like.dtype).tiny
        return -torch.empty_like(like).exponential_().clamp_min(tiny).log()

    def free(self, logits: Tensor, noise: Tensor) -> Tensor:
        return _possible(logits) + noise

    def given(self, logits: Tensor, noise: Tensor, point: Tensor) -> Tensor:
        largest = (noise * point).sum(-1, keepdim=True)
        others = -torch.logaddexp(-noise - _possible(logits), -largest)
        return torch.where(point == 1, noise, others)

    def relax(self, z: Tensor, temperature: Tensor) -> Tensor:
        return torch.softmax(z / temperature, -1)

    def score(self, logits: Tensor, point: Tensor) -> Tensor:
        return point - torch.softmax(logits, -1)


class Indexed(Gumbel):
    """Gumbel noise behind indices: their points are the one-hot vectors."""

    def logits(self, q: Any, value: Tensor) -> Tensor:
        return innermost(q).logits.expand(*value.shape, -1)

    def point(self, q: Any, value: Tensor) -> Tensor:
        logits = innermost(q).logits
        return one_hot(value.long(), logits.shape[-1]).to(logits.dtype)


def noise_behind(q: Any) -> Noise | None:
    """The noise behind a distribution's draws; None if there is no such noise."""
    core = innermost(q)
    if isinstance(core, dist.Bernoulli):
        return Logistic()
    if isinstance(core, dist.OneHotCategorical):
        return Gumbel()
    return Indexed() if isinstance(core, dist.Categorical) else None


def _possible(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1).clamp_min(_IMPOSSIBLE)
