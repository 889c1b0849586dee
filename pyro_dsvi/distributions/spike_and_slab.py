r"""A scale mixture of two Gaussians: a narrow spike, where weights are off, and a broad slab.

.. math:: p(w) = (1 - \pi)\, N(w; 0, \sigma_\text{spike}^2) + \pi\, N(w; 0, \sigma_\text{slab}^2)

A point mass for a spike would be infinitely far from any Gaussian guide, so the spike has a width.

References:
    :cite:p:`george1993variable`, :cite:p:`blundell2015weight`
"""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all


class SpikeAndSlab(TorchDistribution):
    """The mixture of a narrow and a broad zero-mean Gaussian.

    Args:
        probability: of the slab.
        spike: standard deviation of the spike.
        slab: standard deviation of the slab.
        validate_args: as for any distribution.

    References:
        :cite:p:`george1993variable`

    Example:
        >>> import torch
        >>> SpikeAndSlab(0.5, 0.1, 1.0).log_prob(torch.tensor([0.0, 1.0]))
        tensor([ 0.7858, -2.1121])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "probability": constraints.unit_interval,
        "spike": constraints.positive,
        "slab": constraints.positive,
    }
    support: Any = constraints.real
    has_rsample = False

    def __init__(
        self,
        probability: Tensor | float,
        spike: Tensor | float,
        slab: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.probability, self.spike, self.slab = broadcast_all(probability, spike, slab)
        super().__init__(self.probability.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SpikeAndSlab":
        parts = (x.expand(batch_shape) for x in (self.probability, self.spike, self.slab))
        return SpikeAndSlab(*parts, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        off = torch.log1p(-self.probability) + _zero_mean(value, self.spike)
        return torch.logaddexp(off, self.probability.log() + _zero_mean(value, self.slab))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            on = torch.bernoulli(self.probability.expand(shape)).bool()
            scale = torch.where(on, self.slab, self.spike)
            return scale * torch.randn_like(scale)


def _zero_mean(value: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * (value / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
