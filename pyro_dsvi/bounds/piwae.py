r"""Partially importance-weighted: the model by a tight bound, the guide by loose ones.

.. math:: B_\theta = \log \frac1{mk} \sum_{ij} e^{\ell_{ij}}, \qquad
    B_\varphi = \frac1m \sum_i \log \frac1k \sum_j e^{\ell_{ij}}

from the same mk particles.

References:
    :cite:p:`rainforth2018tighter`
"""

from dataclasses import dataclass

from pyro_dsvi.bounds.iwae import IWAE
from pyro_dsvi.bounds.miwae import MIWAE
from pyro_dsvi.bounds.pursuit import Pursuit


@dataclass(frozen=True)
class PIWAE(IWAE):
    """IWAE of all m times k particles for the model, MIWAE for the guide.

    Args:
        m: number of groups.
        k: particles in each.

    Raises:
        InvalidArgument: if ``m`` or ``k`` is no whole number of at least 1.

    Example:
        >>> PIWAE(4, 8).num_particles
        32
    """

    m: int
    k: int

    def __post_init__(self) -> None:
        MIWAE(self.m, self.k)  # which says what is wrong

    @property
    def guide(self) -> Pursuit:
        return MIWAE(self.m, self.k)

    @property
    def num_particles(self) -> int:
        return self.m * self.k
