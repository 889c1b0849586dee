r"""The values that a site can take, each with its weight.

A discrete site has its support; a count without an upper bound has it up to a tail that rounding
would swallow; a Normal site has the nodes of Gauss-Hermite quadrature, as noise in

.. math:: \int q(z) f(z)\,dz \approx \sum_i w_i\, f(\mu + \sigma \varepsilon_i)

which is exact where f is a polynomial of degree below twice the number of nodes, and converges fast
where it is smooth.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_dsvi.estimators.law import innermost


@dataclass(frozen=True, eq=False)
class Branches:
    """All joint values of a site's elements.

    Attributes:
        options: what one element can be, shape ``[options, *event]``.
        log_weight: weight of each where its probability does not say it (a node), else None.
        shape: the site's shape, that of all its elements.
        exact: whether these are all values, rather than nodes or a truncated support.
    """

    options: Tensor
    log_weight: Tensor | None
    shape: torch.Size
    exact: bool

    @property
    def count(self) -> int:
        """Number of joint values."""
        return len(self.options) ** self._elements

    @property
    def _elements(self) -> int:
        return self.shape[: len(self.shape) - (self.options.dim() - 1)].numel()

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        """A joint value (or its noise), and its log weight beyond the site's own density."""
        digits, weight = [], 0.0
        for _ in range(self._elements):
            index, digit = divmod(index, len(self.options))
            digits.append(digit)
            if self.log_weight is not None:
                weight += float(self.log_weight[digit])
        chosen = self.options[torch.tensor(digits, dtype=torch.long, device=self.options.device)]
        return chosen.reshape(self.shape), weight


def branches(q: Any, nodes: int) -> Branches | str:
    """What a site's distribution can give; in words why not, if that is not finite.

    Args:
        q: the guide's distribution.
        nodes: nodes for each element of a Normal site.
    """
    base = innermost(q)
    name = type(base).__name__
    if isinstance(base, dist.Normal):
        if not nodes:
            return f"{name} is continuous"
        noise, weight = np.polynomial.hermite_e.hermegauss(nodes)
        log_weight = torch.tensor(weight / math.sqrt(2 * math.pi)).log()
        return Branches(torch.as_tensor(noise).to(base.loc), log_weight, q.shape(), False)
    if getattr(base, "has_enumerate_support", False):
        try:
            support = base.enumerate_support(expand=False)
        except NotImplementedError as error:
            return f"the support of {name} cannot be enumerated: {error}"
        return Branches(support.reshape(len(support), *base.event_shape), None, q.shape(), True)
    counts = getattr(base, "support", None) is constraints.nonnegative_integer
    if counts and not base.event_shape:
        return Branches(_likely_counts(base), None, q.shape(), False)
    return f"{name} is neither discrete nor Normal"


def placed(q: Any, given: Tensor) -> Tensor:
    """The site's value: as given, or at the given noise if it is Normal."""
    base, given = innermost(q), given.reshape(q.shape())
    return base.loc + base.scale * given if isinstance(base, dist.Normal) else given.clone()


@torch.no_grad()
def _likely_counts(base: Any) -> Tensor:
    """0, 1, 2, ... until what is left has a probability that rounding swallows."""
    mean, deviation = float(base.mean.max()), float(base.variance.max()) ** 0.5
    last = math.ceil(mean + 4 * deviation + 16)
    while True:
        counts = torch.arange(last + 1, dtype=base.mean.dtype, device=base.mean.device)
        tail = base.log_prob(counts[-1:].reshape(-1, *[1] * len(base.batch_shape)))
        if float(tail.max()) < math.log(torch.finfo(base.mean.dtype).eps) - 2:
            return counts
        last = 2 * last
