"""Bounds between the ELBO and log p(x) and around them, by the names of their papers."""

from typing import Any

from pyro_dsvi import bounds
from pyro_dsvi.bounds import Partition, Rule
from pyro_dsvi.objective import Objective

_NODES = bounds.LogUniform(5)


class MIWAE(Objective):
    """The mean of m importance-weighted bounds of k particles each, per datum.

    Args:
        m: number of groups.
        k: particles in each group.
        options: as for :class:`Objective`, but for ``num_particles``, which is m times k.

    References:
        :cite:p:`rainforth2018tighter`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.MIWAE(4, 8)
    """

    def __init__(self, m: int, k: int, **options: Any) -> None:
        bound = bounds.MIWAE(m, k)
        super().__init__(bound, num_particles=bound.num_particles, **options)


class PIWAE(Objective):
    """IWAE of all m times k particles for the model, :class:`MIWAE` for the guide.

    Args:
        m: number of groups.
        k: particles in each group.
        options: as for :class:`Objective`, but for ``num_particles``, which is m times k.

    References:
        :cite:p:`rainforth2018tighter`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.PIWAE(4, 8, frozen=True)
    """

    def __init__(self, m: int, k: int, **options: Any) -> None:
        bound = bounds.PIWAE(m, k)
        super().__init__(bound, num_particles=bound.num_particles, **options)


class CIWAE(Objective):
    """The share beta of the ELBO and the rest of IWAE, per datum.

    Args:
        beta: weight of the ELBO, in [0, 1].
        num_particles: K.
        options: as for :class:`Objective`.

    References:
        :cite:p:`rainforth2018tighter`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.CIWAE(0.5, 8)
    """

    def __init__(self, beta: float, num_particles: int, **options: Any) -> None:
        super().__init__(bounds.CIWAE(beta), num_particles=num_particles, **options)


class TVO(Objective):
    """The thermodynamic variational objective, per datum.

    Its gradient is the unbiased one of the K-sample bound, by the path or the score at each site.
    The covariance estimator of Masrani et al., which differentiates no draw and is consistent as K
    grows, is a weighting that the guide may follow instead.

    Args:
        num_particles: K.
        partition: the nodes: ``dsvi.bounds.LogUniform``, ``Points`` or, adaptive, ``Moments``.
        rule: ``dsvi.bounds.Rule.LEFT`` (a lower bound), ``TRAPEZOID`` or ``RIGHT``.
        options: as for :class:`Objective`.

    References:
        :cite:p:`masrani2019tvo`, :cite:p:`brekelmans2020bregman`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> adaptive = dsvi.TVO(8, partition=dsvi.bounds.Moments(5))
        >>> tvo = dsvi.bounds.TVO(dsvi.bounds.LogUniform(5, first=0.05))
        >>> apart = dsvi.bounds.Apart(tvo, dsvi.bounds.Covariance(tvo))
        >>> by_covariance = dsvi.Objective(apart, num_particles=8)
    """

    def __init__(
        self,
        num_particles: int,
        *,
        partition: Partition = _NODES,
        rule: Rule = Rule.LEFT,
        **options: Any,
    ) -> None:
        super().__init__(bounds.TVO(partition, rule), num_particles=num_particles, **options)


class TailAdaptive(Objective):
    """IWAE for the model, paths weighed by the ranks of the log weights for the guide.

    Every site of the guide has to be reparameterised.

    Args:
        num_particles: K.
        beta: power of the tail probability.
        options: as for :class:`Objective`, but for ``frozen``.

    References:
        :cite:p:`wang2018tail`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.TailAdaptive(8)
    """

    def __init__(self, num_particles: int, beta: float = -1.0, **options: Any) -> None:
        bound = bounds.TailAdaptive(beta)
        super().__init__(bound, num_particles=num_particles, frozen=True, **options)


class CUBO(Objective):
    """The chi upper bound of order n: an upper bound in the limit of many particles.

    ``-loss`` is its estimate, which the guide lowers and the model raises.

    Args:
        num_particles: K.
        n: the order, at least 1.
        options: as for :class:`Objective`.

    References:
        :cite:p:`dieng2017chi`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> upper = dsvi.CUBO(1000)
    """

    def __init__(self, num_particles: int, n: float = 2.0, **options: Any) -> None:
        super().__init__(bounds.CUBO(n), num_particles=num_particles, **options)
