r"""REBAR: the model itself, at relaxed values, as control variate of its score function.

.. math:: c(\sigma_\lambda(z)) = \eta\, f(\sigma_\lambda(z))

with temperature :math:`\lambda` and coefficient :math:`\eta` trained in the same step.  Two
evaluations of the programs: at b and at the relaxed value.

References:
    :cite:p:`tucker2017rebar`
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.hindsight import noise_behind
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.estimators.relaxed_control import (
    Control,
    Learnt,
    RelaxedControl,
    checked_scale,
    checked_temperature,
)


@dataclass(frozen=True, eq=False)
class REBAR(RelaxedControl):
    """Hard draws, relaxed control variate; for Bernoulli and OneHotCategorical sites.

    The programs must be smooth functions of the site's value from there on: a comparison, rounding
    or an index made of it has no slope, and would leave a bias.  A cost that the value reaches by
    such ways alone is refused; one that it also reaches by smooth ones cannot be told.

    Args:
        temperature: start value of the temperature, positive.
        scale: start value of the coefficient.

    Raises:
        InvalidArgument: if the temperature is not positive or the scale not finite.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> rebar = dsvi.estimators.REBAR(temperature=0.5)
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"b": rebar})
        >>> sorted(name for name, _ in elbo.baselines.named_parameters())
        ['at b.log_temperature', 'at b.scale']
    """

    temperature: float = 0.5
    scale: float = 1.0
    learnt: Learnt = field(init=False, repr=False)

    relaxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        temperature = checked_temperature("REBAR", self.temperature)
        scale = checked_scale("REBAR", self.scale)
        object.__setattr__(self, "learnt", Learnt(temperature, scale))

    def objection(self, q: Any) -> str | None:
        return relaxed_objection(q)

    def control(self, visit: Visit, value: Tensor) -> Control:
        scale = self.learnt.scale
        assert scale is not None  # as constructed
        return Control(scale * visit.credits[0], scale * visit.totals[0])


def relaxed_objection(q: Any) -> str | None:
    """Why the programs cannot be run at relaxed values of a distribution; None if they can."""
    core = innermost(q)
    if isinstance(core, dist.Categorical):
        return (
            "an index has no value between two others; sample a OneHotCategorical instead (in the "
            "model too), or use dsvi.estimators.RELAX(net, scale=None), which runs no program there"
        )
    if noise_behind(q) is None:
        return (
            f"{type(core).__name__} is neither a Bernoulli nor a OneHotCategorical; "
            "use dsvi.estimators.ScoreFunction() here"
        )
    return None
