r"""The importance-weighted bound.

.. math:: B = \log \frac1K \sum_k e^{\ell_k}, \qquad
    \mathbb{E}[B_m] \le \mathbb{E}[B_k] \le \log p(x) \quad (m \le k)

It is Rényi's bound of order zero: slope :math:`\tilde w_k`, frozen weight
:math:`\tilde w_k^2` (the doubly reparameterised gradient).

References:
    :cite:p:`burda2016iwae`, :cite:p:`tucker2019dreg`
"""

from dataclasses import dataclass, field

from pyro_dsvi.bounds.renyi import Renyi


@dataclass(frozen=True)
class IWAE(Renyi):
    """Log of the mean weight of K particles, per element of the plates that every term shares.

    Example:
        >>> import torch
        >>> IWAE().value(torch.tensor([1.0, 3.0]).log())
        tensor(0.6931)
    """

    alpha: float = field(default=0.0, init=False, repr=False)
