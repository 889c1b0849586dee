r"""Quasi-Monte Carlo particles: the noise of a step is one scrambled low-discrepancy point set.

.. math:: z_k = g(\varphi, F^{-1}(u_k)), \qquad u_1, \dots, u_K \in (0, 1)^d \text{ spread evenly}

d counts every number of noise that the guide's reparameterised sites consume, all plate elements
included, and each particle is one point.  The set is joint: it is even in all d coordinates
together, not site by site.  Each step scrambles anew, so every particle keeps its law, and a mean
over particles is unbiased.  Its variance falls faster than 1/K where the cost depends smoothly on
few combinations of the noise.

References:
    :cite:p:`buchholz2018qmcvi`, :cite:p:`owen1998scrambling`
"""

from typing import Any, ClassVar

from torch import Tensor

from pyro_dsvi.errors import DSVIWarning, InvalidArgument
from pyro_dsvi.handlers.coupling import Coupling, Seat
from pyro_dsvi.handlers.points import Factory, Given, Made, Points, Sobol, Source, is_engine
from pyro_dsvi.handlers.reparameterisation import Reparameterisation


class QuasiMonteCarlo(Coupling):
    """Takes the particles' noise from a point set; see :func:`quasi_monte_carlo`."""

    title: ClassVar[str] = "quasi_monte_carlo()"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self._points: Points | None = None
        self._blocks: dict[str, tuple[int, int]] = {}
        self._used = 0
        self._index = 0

    def begin(self, seat: Seat) -> None:
        """Make a new set at the start of a step; its dimension is that of the last step."""
        known = self._points is not None and self._points.count == seat.count
        if seat.axis is None and known and seat.index > self._index:
            self._index = seat.index
            return
        self._points = Points(seat.count, self.source, self._used)
        self._blocks.clear()
        self._used, self._index = 0, seat.index

    def noise(self, site: str, law: Reparameterisation, seat: Seat) -> Tensor:
        assert self._points is not None  # made at the start of the run
        size = law.shape.numel()
        if seat.axis is None:
            u = self._points.columns(*self._block(site, size))[seat.index]
            return law.of_uniform(u.reshape(law.shape))
        u = self._points.columns(*self._block(site, size // seat.count))
        shape = list(law.shape)
        del shape[seat.axis]
        return law.of_uniform(u.reshape(seat.count, *shape).movedim(0, seat.axis))

    def _block(self, site: str, size: int) -> tuple[int, int]:
        """The columns of a site: the same for every particle of a step."""
        start, stop = self._blocks.get(site, (0, -1))
        if stop - start != size:
            start, stop = self._used, self._used + size
            self._blocks[site] = start, stop
            self._used = stop
        if isinstance(self.source, Sobol) and start <= Sobol.most < stop:
            self._say(
                DSVIWarning,
                f"{self.title}: the guide's noise has more than the {Sobol.most} dimensions of a "
                f"Sobol sequence; from site {site!r} on, it is independent",
            )
        return start, stop


def quasi_monte_carlo(engine: str | Factory | Any = "sobol") -> QuasiMonteCarlo:
    """Draw the particles of a step as one scrambled point set, over all reparameterised sites.

    A handler: around a step, ``with quasi_monte_carlo(): svi.step()``, or around a guide,
    ``quasi_monte_carlo()(guide)``.  A number of particles that is a power of two suits Sobol
    points best.  What is said of sites and bounds at :func:`~pyro_dsvi.handlers.antithetic` holds
    here too.

    Args:
        engine: ``"sobol"`` is torch's Sobol sequence of up to 21201 dimensions, scrambled anew in
            each step; a guide with more has independent noise in the rest, and a warning says so.
            Or a function that takes a dimension and a seed, and makes an engine with scipy's
            ``random`` or torch's ``draw``.  Or such an engine itself, which must be scrambled and
            is continued from step to step.

    Returns:
        The context manager, which also wraps a guide.

    Raises:
        InvalidArgument: if ``engine`` is none of these, or has too few dimensions.
        IncompatibleSite: when a draw is met under a bound of several samples whose guide densities
            are frozen (DReG).

    Warns:
        DependentParticlesWarning: under any other bound of several samples.
        UncontrolledNoiseWarning: at a site that is left as it is.

    References:
        :cite:p:`buchholz2018qmcvi`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> elbo = dsvi.PathwiseELBO(num_particles=16)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        >>> with dsvi.handlers.quasi_monte_carlo("sobol"):
        ...     loss = svi.step()
    """
    if isinstance(engine, str) and engine == "sobol":
        return QuasiMonteCarlo(Sobol())
    if is_engine(engine):
        if not getattr(engine, "scramble", True):
            raise InvalidArgument(
                f"quasi_monte_carlo: {type(engine).__name__} is not scrambled, so its estimate "
                "would be biased; pass scramble=True to it"
            )
        return QuasiMonteCarlo(Given(engine))
    if not callable(engine) or isinstance(engine, type):
        raise InvalidArgument(
            f"quasi_monte_carlo: expected 'sobol', an engine of scipy.stats.qmc or torch, or a "
            f"function of the dimension and a seed that makes one, got {engine!r}"
        )
    return QuasiMonteCarlo(Made(engine))
