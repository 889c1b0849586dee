r"""Take out the weights that are nothing but noise, whose :math:`\log\alpha` is too large.

What is left is an ordinary network with the guide's means for weights, and zeros.

.. math:: \text{compression} = \frac{\#\{\text{weights}\}}{\#\{\text{weights} \ne 0\}}

The literature leaves biases out of both counts.  They are counted apart here, and the compression
with them in both is given as well, since it is much smaller once few weights are left.

References:
    :cite:p:`molchanov2017variational`
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pyro_dsvi.errors import InvalidArgument, SiteMismatch
from pyro_dsvi.nn.bayesianize import BayesianModule, set_tensors


class NoisyGuide(Protocol):
    """A guide that knows how noisy each weight is."""

    def median(self) -> Mapping[str, Tensor]:
        """Means by site."""
        ...

    def log_alpha(self) -> Mapping[str, Tensor]:
        """The logarithm of variance over squared mean, by site."""
        ...


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network with weights taken out.

    Attributes:
        net: the network, an ordinary module; what was taken out is zero.
        total: number of elements by weight.
        nonzero: number of those left.
        others: elements of parameters that were no candidates, biases for one.
    """

    net: nn.Module
    total: Mapping[str, int]
    nonzero: Mapping[str, int]
    others: int

    @property
    def compression(self) -> float:
        """Weights over weights left, other parameters not counted."""
        return _ratio(sum(self.total.values()), sum(self.nonzero.values()))

    @property
    def compression_of_all(self) -> float:
        """Parameters over parameters left, all of the others counted as left."""
        total, left = sum(self.total.values()), sum(self.nonzero.values())
        return _ratio(total + self.others, left + self.others)

    def __str__(self) -> str:
        rows = []
        for name, total in self.total.items():
            left = self.nonzero[name]
            rows.append(f"{name}: {left} of {total} left ({_ratio(total, left):.4g}x)")
        total, left = sum(self.total.values()), sum(self.nonzero.values())
        rows.append(f"weights: {left} of {total} left ({self.compression:.4g}x)")
        rows.append(
            f"with {self.others} other parameters: {left + self.others} of {total + self.others} "
            f"left ({self.compression_of_all:.4g}x)"
        )
        return "\n".join(rows)


def prune(network: BayesianModule, guide: NoisyGuide, *, threshold: float = 3.0) -> Pruned:
    r"""The network of the guide's means, without the weights that are mostly noise.

    Args:
        network: what :func:`~pyro_dsvi.nn.bayesianize` returned.
        guide: its trained guide, e.g. :class:`~pyro_dsvi.guides.AutoVariationalDropout`.
        threshold: weights with :math:`\log\alpha` above it are taken out; 3 is 95 % noise.

    Returns:
        The sparse network, and how sparse it is.

    Raises:
        InvalidArgument: if the guide does not know how noisy its weights are.
        SiteMismatch: if it lacks a weight.

    References:
        :cite:p:`molchanov2017variational`

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> net = torch.nn.Linear(3, 2)
        >>> _ = torch.nn.init.constant_(net.weight, 1.0)
        >>> network = dsvi.nn.bayesianize(net, dsvi.distributions.LogUniform(), "weight")
        >>> init = dsvi.nn.init_to_network(network)
        >>> guide = dsvi.guides.AutoVariationalDropout(network, init_loc_fn=init, init_scale=9.0)
        >>> draw = guide(torch.ones(1, 3))
        >>> prune(network, guide).nonzero
        {'weight': 0}
    """
    if not hasattr(guide, "log_alpha") or not hasattr(guide, "median"):
        raise InvalidArgument(
            f"prune: {type(guide).__name__} does not say how noisy its weights are; use "
            "dsvi.guides.AutoVariationalDropout, or a guide with median() and log_alpha()"
        )
    locs, log_alphas = guide.median(), guide.log_alpha()
    left: dict[str, nn.Parameter] = {}
    for weight in network.weights:
        site = network.site(weight.name)
        if site not in locs or site not in log_alphas:
            raise SiteMismatch(f"site {site!r}: the guide does not have it; prune what it was for")
        kept = log_alphas[site] <= threshold
        left[weight.name] = nn.Parameter(torch.where(kept, locs[site], 0.0).detach().clone())
    net = copy.deepcopy(network._modules["net"])
    assert net is not None  # a BayesianModule has one
    others = sum(parameter.numel() for parameter in net.parameters())
    set_tensors(net, left)
    return Pruned(
        net,
        {name: tensor.numel() for name, tensor in left.items()},
        {name: int(tensor.count_nonzero()) for name, tensor in left.items()},
        others,
    )


def _ratio(total: int, left: int) -> float:
    return total / left if left else math.inf
