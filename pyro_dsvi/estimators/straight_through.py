r"""Straight-through: the draw forward, its mean backward.

.. math:: z \sim q_\varphi, \qquad
    \nabla_\varphi z := \nabla_\varphi \mathbb{E}_{q_\varphi}[z] = \nabla_\varphi p_\varphi

The gradient is :math:`\mathbb{E}[f'(z)]\, \nabla_\varphi p_\varphi`: right for a linear f,
and biased for every other.

References:
    :cite:p:`bengio2013estimating`
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.estimators.gumbel_softmax import through
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.estimators.relaxation import Relaxation


@dataclass(frozen=True)
class StraightThrough(Relaxation):
    """Discrete draws that pass the gradient on to their probabilities; biased.

    For Bernoulli and OneHotCategorical sites.  The value is the discrete draw, so the loss is an
    unbiased estimate of the bound; only the gradient is not.

    References:
        :cite:p:`bengio2013estimating`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> estimator = dsvi.estimators.StraightThrough()
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": estimator})
    """

    def draw(self, q: Any) -> Tensor:
        with torch.no_grad():
            value = q.sample()
        return through(value, innermost(q).probs.expand(value.shape))
