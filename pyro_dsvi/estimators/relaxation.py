r"""Relaxations: a discrete draw is replaced by a value through which a gradient passes.

A relaxed value lies between the points of the support, in the simplex that they span, and there
the discrete laws have no density.  Both programs' log densities are extended linearly,

.. math:: \log p(z) := \sum_v z_v \log p_v, \qquad z_v \ge 0, \; \sum_v z_v = 1,

and for a bit :math:`z \log p + (1 - z) \log(1 - p)`.  The extension is the log density itself at
the points of the support, and it carries a gradient at them, which an index into a table does not.

References:
    :cite:p:`maddison2017concrete`, :cite:p:`jang2017gumbel`
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_dsvi.baselines import Visit
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import innermost


class Relaxation(Estimator):
    """An estimator that differentiates through a relaxed value, for bits and one-hot vectors."""

    bias: ClassVar[Bias] = Bias.BIASED
    passes_gradient: ClassVar[bool] = True
    relaxes: ClassVar[bool] = True

    def objection(self, q: Any) -> str | None:
        kind, core = type(q).__name__, innermost(q)
        if isinstance(core, (Bernoulli, OneHotCategorical)):
            return None
        if getattr(q, "has_rsample", False):
            return f"{kind} is reparameterised as it is; use dsvi.estimators.Pathwise() here"
        if isinstance(core, Categorical):
            return (
                "an index has no value between two others; sample a OneHotCategorical instead "
                "(in the model too), or use dsvi.estimators.ScoreFunction() here"
            )
        return (
            f"{kind} is neither a Bernoulli nor a OneHotCategorical; "
            "use dsvi.estimators.ScoreFunction() here"
        )

    @abstractmethod
    def draw(self, q: Any) -> Tensor:
        """Draw the relaxed value, with its gradient, of the distribution's shape."""

    def needs_credit(self, q: Any) -> bool:
        return False

    def score(self, q: Any, value: Tensor) -> Tensor:
        return extended_log_prob(q, value)

    def surrogate(self, visit: Visit) -> Surrogate:
        return Surrogate(visit.credit, visit.score)


def extended_log_prob(law: Any, value: Tensor) -> Tensor:
    """Log density of a discrete law, extended linearly to the values between its points.

    Args:
        law: a Bernoulli or OneHotCategorical, with whatever is wrapped around it.
        value: points of the simplex, or bits between 0 and 1.

    Returns:
        Log density in nats, of the law's batch shape.

    Raises:
        IncompatibleSite: if the law is of another kind.
    """
    if isinstance(law, MaskedDistribution):
        if law._mask is False:
            return value.new_zeros(law.batch_shape)
        return scale_and_mask(extended_log_prob(law.base_dist, value), mask=law._mask)
    if isinstance(law, Independent):
        each, n = extended_log_prob(law.base_dist, value), law.reinterpreted_batch_ndims
        return each.flatten(-n).sum(-1) if n else each
    if isinstance(law, ExpandedDistribution):
        each = extended_log_prob(law.base_dist, value)
        return each.expand(torch.broadcast_shapes(each.shape, law.batch_shape))
    if isinstance(law, Bernoulli):
        logits, value = torch.broadcast_tensors(law.logits, value)
        return -binary_cross_entropy_with_logits(logits, value, reduction="none")
    if isinstance(law, OneHotCategorical):
        return _weighted(law.logits.log_softmax(-1), value)
    raise IncompatibleSite(
        f"{type(law).__name__} has no density at relaxed values; use a Bernoulli or "
        "OneHotCategorical in both programs, or dsvi.estimators.ScoreFunction()"
    )


def _weighted(log_p: Tensor, value: Tensor) -> Tensor:
    """Sum of z log p, with 0 · −∞ = 0: what cannot be drawn does not count."""
    impossible = (log_p == -torch.inf) & (value == 0)
    return (value * log_p.masked_fill(impossible, 0.0)).sum(-1)
