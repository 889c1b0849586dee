r"""Priors over a network's weights: a law for all elements alike, or one made for each weight.

.. math:: w_{ij} \sim N\big(0, g^2 / n_i\big), \qquad n_i \text{ the number of inputs of a unit,}

keeps a layer's outputs of the same size whatever its width; it is the scaling under which wide
networks have a limit.

References:
    :cite:p:`neal1996bayesian`
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.nn.weight import Weight

Prior = TorchDistributionMixin | Callable[[Weight], TorchDistributionMixin]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class IID:
    """The same law for every element.

    A distribution passed as a prior means this.

    Args:
        law: a distribution of one number, such as ``dist.Normal(0.0, 1.0)``,
            ``dsvi.distributions.Horseshoe(0.1)`` or ``dsvi.distributions.LogUniform()``.
    """

    law: Any

    def __call__(self, weight: Weight) -> Any:
        """The law of one weight."""
        try:
            return self.law.expand(weight.tensor.shape).to_event(weight.tensor.dim())
        except (RuntimeError, ValueError) as error:
            raise InvalidArgument(
                f"prior of {weight.name!r}: {self.law} does not expand to the weight's shape "
                f"{tuple(weight.tensor.shape)}"
            ) from error


@dataclass(frozen=True)
class FanIn:
    """A Gaussian whose variance is inverse to the number of a unit's inputs.

    Biases and other vectors, and the rows of an embedding, count as having one input.

    Args:
        gain: standard deviation of a sum over all inputs of size one.

    Raises:
        InvalidArgument: if the gain is not positive.

    References:
        :cite:p:`neal1996bayesian`

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(16, 3)
        >>> prior = FanIn(2.0)(Weight("weight", net.weight, net))
        >>> prior.base_dist.scale.unique()
        tensor([0.5000])
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise InvalidArgument(f"FanIn: gain={self.gain}; it must be positive")

    def __call__(self, weight: Weight) -> Any:
        """The law of one weight."""
        zero = torch.zeros_like(weight.tensor)
        return dist.Normal(zero, self.gain / math.sqrt(fan_in(weight))).to_event(zero.dim())


def fan_in(weight: Weight) -> int:
    """How many inputs a unit of the weight's layer sums over."""
    shape, layer = weight.tensor.shape, weight.layer
    if len(shape) < 2 or isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return 1
    if isinstance(layer, _TRANSPOSED):  # its weight has the inputs first
        return shape[0] // layer.groups * math.prod(shape[2:])
    return math.prod(shape[1:])


def law_of(prior: Prior, weight: Weight) -> Any:
    """The prior of one weight, a distribution of one event of the weight's shape.

    Args:
        prior: as for :func:`~pyro_dsvi.nn.bayesianize`.
        weight: the weight.

    Raises:
        InvalidArgument: if the prior is none, or is of another shape.
    """
    if isinstance(prior, (TorchDistributionMixin, torch.distributions.Distribution)):
        law: Any = IID(prior)(weight)
    elif callable(prior):
        made: Any = prior
        law = made(weight)
    else:
        law = None
    if not isinstance(law, TorchDistributionMixin):
        raise InvalidArgument(
            f"prior of {weight.name!r}: expected a Pyro distribution, or a function from a Weight "
            f"to one, got {prior!r}"
        )
    law = law.to_event(len(law.batch_shape)) if law.batch_shape else law
    if law.event_shape != weight.tensor.shape:
        raise InvalidArgument(
            f"prior of {weight.name!r}: it is over values of shape {tuple(law.event_shape)}, but "
            f"the weight has shape {tuple(weight.tensor.shape)}"
        )
    return law
