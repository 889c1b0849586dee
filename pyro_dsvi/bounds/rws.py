r"""Reweighted wake-sleep: the model by IWAE, the guide by weighted maximum likelihood.

.. math:: \theta: \; \nabla_\theta \log \tfrac1K \textstyle\sum_k e^{\ell_k}
    = \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k), \qquad
    \varphi: \; \sum_k \tilde w_k \nabla_\varphi \log q_\varphi(z_k \mid x)

The guide's update (wake-phi) is a self-normalised estimate, consistent as K grows, of the gradient
of :math:`-\mathrm{KL}(p(z \mid x) \,\|\, q_\varphi)`; it is the gradient of no function.  It serves
discrete latents without a score function's variance.  With frozen densities a reparameterised site
gets it by the path, with weights :math:`\tilde w_k (1 - \tilde w_k)`.

References:
    :cite:p:`bornschein2015rws`, :cite:p:`le2019revisiting`, :cite:p:`tucker2019dreg`
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.bounds.pursuit import Pursuit
from pyro_dsvi.bounds.weighting import Weighting
from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True)
class WakePhi(Weighting):
    """Each draw's log density counts by its normalised weight.

    Args:
        share: factor on all weights, in [0, 1].

    Raises:
        InvalidArgument: if ``share`` is not in [0, 1].

    Example:
        >>> import torch
        >>> WakePhi().weight(torch.tensor([1.0, 3.0]).log())
        tensor([0.2500, 0.7500])
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not 0 <= self.share <= 1:
            raise InvalidArgument(f"WakePhi: share must be in [0, 1], got {self.share!r}")

    def weight(self, log_w: Tensor) -> Tensor:
        return self.share * torch.softmax(log_w, 0)

    def weight_slope(self, log_w: Tensor) -> Tensor:
        weights = torch.softmax(log_w, 0)
        return self.share * weights * (1 - weights)


@dataclass(frozen=True)
class RWS(IWAE):
    """IWAE for the model, the wake-phi update for the guide.

    Args:
        wake: factor on the guide's update; what is left is for a sleep phase.

    Raises:
        InvalidArgument: if ``wake`` is not in [0, 1].

    Example:
        >>> RWS().guide
        WakePhi(share=1.0)
    """

    wake: float = 1.0

    def __post_init__(self) -> None:
        WakePhi(self.wake)  # which says what is wrong

    @property
    def guide(self) -> Pursuit:
        return WakePhi(self.wake)
