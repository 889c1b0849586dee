r"""Model and guide apart: each climbs a bound of its own.

.. math:: \theta \text{ by } \nabla_\theta \mathbb{E}[B_\theta(\ell)], \qquad
    \varphi \text{ by } \nabla_\varphi \mathbb{E}[B_\varphi(\ell)]

A tighter bound serves the model, but drowns the guide's gradient in noise as K grows; apart, each
gets what serves it.

References:
    :cite:p:`rainforth2018tighter`
"""

from dataclasses import dataclass

from torch import Tensor

from pyro_dsvi.bounds.bound import Bound
from pyro_dsvi.bounds.pursuit import Pursuit
from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True)
class Apart(Bound):
    """A bound for the model, whose value is reported, and something else for the guide.

    Args:
        model: the bound that the model climbs.
        follows: what the guide follows: another bound, or a weighting such as ``WakePhi()``.

    Raises:
        InvalidArgument: if one of them is none, or both ask for different numbers of particles.

    Example:
        >>> import torch
        >>> from pyro_dsvi.bounds import IWAE, Evidence
        >>> Apart(IWAE(), Evidence()).value(torch.tensor([1.0, 3.0]).log())
        tensor(0.6931)
    """

    model: Bound
    follows: Pursuit

    def __post_init__(self) -> None:
        for role, kind in (("model", Bound), ("follows", Pursuit)):
            if not isinstance(getattr(self, role), kind):
                raise InvalidArgument(
                    f"{type(self).__name__}: {role}: expected a bound, got "
                    f"{getattr(self, role)!r}; e.g. dsvi.bounds.IWAE()"
                )
        numbers = {x.num_particles for x in self._bounds() if x.num_particles is not None}
        if len(numbers) > 1:
            raise InvalidArgument(
                f"{type(self).__name__}: model and guide need the same particles, got bounds of "
                f"{' and '.join(map(str, sorted(numbers)))}"
            )

    def _bounds(self) -> list[Bound]:
        return [x for x in (self.model, self.follows) if isinstance(x, Bound)]

    @property
    def guide(self) -> Pursuit:
        return self.follows.guide if isinstance(self.follows, Bound) else self.follows

    @property
    def num_particles(self) -> int | None:
        return next((x.num_particles for x in self._bounds() if x.num_particles), None)

    def value(self, log_w: Tensor) -> Tensor:
        return self.model.value(log_w)

    def slope(self, log_w: Tensor) -> Tensor:
        return self.model.slope(log_w)

    def gain(self, log_w: Tensor) -> Tensor:
        return self.model.gain(log_w)

    def curvature(self, log_w: Tensor) -> Tensor:
        return self.model.curvature(log_w)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        return self.model.leave_one_out(log_w)
