r"""DisARM, or U2G: ARM with its noise summed out, from one pair of antithetic bits.

With :math:`b = 1[u > \sigma(-\alpha)]` and its mirror image
:math:`\tilde b = 1[1 - u > \sigma(-\alpha)]`,

.. math:: \nabla_{\alpha_i} \mathbb{E}[f(b)] = \mathbb{E}\Big[\tfrac12 \big(f(b) - f(\tilde b)\big)
    (-1)^{\tilde b_i}\, 1[b_i \ne \tilde b_i]\, \sigma(|\alpha_i|)\Big]

References:
    :cite:p:`dong2020disarm`, :cite:p:`yin2020u2g`
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual, Visit
from pyro_dsvi.estimators.densities import log_prob
from pyro_dsvi.estimators.estimator import Bias, Estimator, Surrogate
from pyro_dsvi.estimators.law import innermost, sampling_law


@dataclass(frozen=True)
class DisARM(Estimator):
    """Antithetic pairs of bits; asks for the credit at one other value."""

    bias: ClassVar[Bias] = Bias.UNBIASED
    passes_gradient: ClassVar[bool] = False

    def objection(self, q: Any) -> str | None:
        if isinstance(innermost(q), dist.Bernoulli):
            return None
        return f"{type(innermost(q)).__name__} is not Bernoulli"

    def score(self, q: Any, value: Tensor) -> Tensor:
        return log_prob(sampling_law(q), value)

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual:
        p = innermost(q).probs.detach().expand(value.shape)
        v = torch.rand_like(p)
        # u given b, from the noise's law; the mirror image is 1 where 1 - u > 1 - p
        u = torch.where(value == 1, 1 - p * v, (1 - p) * v)
        return Counterfactual((u < p).to(value.dtype).unsqueeze(0))

    def surrogate(self, visit: Visit) -> Surrogate:
        logits = innermost(visit.q).logits.expand(visit.value.shape)
        assert visit.counterfactual is not None
        (other,) = visit.counterfactual.values
        half = visit.per_value(visit.credit - visit.credits[0]) / 2
        differ = torch.where(other == 1, -1.0, 1.0) * (visit.value != other)
        weight = half * differ * torch.sigmoid(logits.abs())
        return Surrogate.sum((weight, logits))
