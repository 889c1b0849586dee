"""The lectures' ELBO classes by name, each a few lines over :class:`Objective`."""

from typing import Any, ClassVar

from pyro_dsvi import bounds
from pyro_dsvi.baselines import Baseline
from pyro_dsvi.estimators import Pathwise, ScoreFunction
from pyro_dsvi.objective import Objective
from pyro_dsvi.strategy import Everywhere


class ScoreFunctionELBO(Objective):
    """The ELBO by the score function at every site: REINFORCE, and REINFORCE+ with a baseline.

    Args:
        baseline: what is subtracted from each site's credit, or None.
        options: as for :class:`Objective`.

    References:
        :cite:p:`williams1992reinforce`, :cite:p:`ranganath2014bbvi`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.ScoreFunctionELBO(dsvi.baselines.MovingAverage())
    """

    def __init__(self, baseline: Baseline | None = None, **options: Any) -> None:
        super().__init__(bounds.Evidence(), default=Everywhere(ScoreFunction(baseline)), **options)


class PathwiseELBO(Objective):
    """The ELBO by reparameterisation at every site; a site without ``rsample`` is refused by name.

    Args:
        options: as for :class:`Objective`.

    References:
        :cite:p:`kingma2014vae`, :cite:p:`rezende2014dlgm`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.PathwiseELBO(num_particles=2)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(bounds.Evidence(), default=Everywhere(Pathwise()), **options)


class MixedELBO(Objective):
    """The ELBO with an estimator per site: pathwise where it can be, else the score function.

    Args:
        options: as for :class:`Objective`.

    References:
        :cite:p:`schulman2015scg`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.MixedELBO(num_particles=4)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(bounds.Evidence(), **options)


class STL(Objective):
    """Sticking the landing: the ELBO with the guide's densities frozen.

    Args:
        options: as for :class:`Objective`, but for ``frozen``.

    References:
        :cite:p:`roeder2017stl`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> elbo = dsvi.STL()
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(bounds.Evidence(), frozen=True, **options)


class IWAE(Objective):
    """The importance-weighted bound of K particles, per datum.

    Args:
        num_particles: K.
        options: as for :class:`Objective`.

    References:
        :cite:p:`burda2016iwae`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.IWAE(16)
    """

    def __init__(self, num_particles: int, **options: Any) -> None:
        super().__init__(bounds.IWAE(), num_particles=num_particles, **options)


class VIMCO(Objective):
    """The importance-weighted bound for discrete latents: every particle is the others' baseline.

    Args:
        num_particles: K, at least 2.
        options: as for :class:`Objective`.

    References:
        :cite:p:`mnih2016vimco`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.VIMCO(8)
    """

    min_particles: ClassVar[int] = 2

    def __init__(self, num_particles: int, **options: Any) -> None:
        super().__init__(bounds.IWAE(), num_particles=num_particles, **options)


class DReG(Objective):
    """The importance-weighted bound with doubly reparameterised gradients.

    Args:
        num_particles: K.
        options: as for :class:`Objective`, but for ``frozen``.

    References:
        :cite:p:`tucker2019dreg`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.DReG(16)
    """

    def __init__(self, num_particles: int, **options: Any) -> None:
        super().__init__(bounds.IWAE(), num_particles=num_particles, frozen=True, **options)


class Renyi(Objective):
    """Rényi's bound of order alpha over K particles, per datum.

    Args:
        alpha: the order, different from 1.
        num_particles: K.
        options: as for :class:`Objective`.

    References:
        :cite:p:`li2016renyi`

    Example:
        >>> import pyro_dsvi as dsvi
        >>> bound = dsvi.Renyi(0.5, 8)
    """

    def __init__(self, alpha: float, num_particles: int, **options: Any) -> None:
        super().__init__(bounds.Renyi(alpha), num_particles=num_particles, **options)
