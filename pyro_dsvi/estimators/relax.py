r"""RELAX: a network of the relaxed value, with or without the model's help, as control variate.

.. math:: c(\sigma_\lambda(z)) = \eta\, f(\sigma_\lambda(z)) + r_\rho(\sigma_\lambda(z))

Temperature, coefficient and network are trained in the same step.  With the model there are two
evaluations of the programs, as for REBAR; without it one.

References:
    :cite:p:`grathwohl2018relax`
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.estimators.hindsight import noise_behind
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.estimators.rebar import relaxed_objection
from pyro_dsvi.estimators.relaxed_control import (
    Control,
    Learnt,
    RelaxedControl,
    checked_scale,
    checked_temperature,
)


@dataclass(frozen=True, eq=False)
class RELAX(RelaxedControl):
    """Hard draws, learnt control variate; for Bernoulli, Categorical and OneHotCategorical sites.

    Args:
        net: maps relaxed values, shape ``[..., N]``, to ``[..., 1]`` or ``[...]``, each row by
            itself; N is the number of bits or categories in the site's event (at least 1), and
            the output is in nats per datum, with the subsampling scale divided out.
        inputs: a tensor, or a function of the program's arguments that returns one, shape
            ``[*plates, D]``; the network then sees N + D numbers a row, the relaxed value first.
        temperature: start value of the temperature, positive.
        scale: start value of the model's coefficient; None leaves the model out of the control
            variate, which Categorical sites need, since an index cannot be relaxed.


    Raises:
        InvalidArgument: if the temperature is not positive, the scale not finite, or ``net`` is no
            module.
        IncompatibleSite: at the first step, if the network's output is not one number a row.

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> relax = dsvi.estimators.RELAX(net, scale=None)
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"b": relax})
    """

    net: torch.nn.Module
    inputs: Tensor | Callable[..., Tensor] | None = field(default=None, kw_only=True)
    temperature: float = field(default=0.5, kw_only=True)
    scale: float | None = field(default=1.0, kw_only=True)
    learnt: Learnt = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.net, torch.nn.Module):
            raise InvalidArgument(f"RELAX: expected a torch.nn.Module, got {self.net!r}")
        temperature = checked_temperature("RELAX", self.temperature)
        scale = None if self.scale is None else checked_scale("RELAX", self.scale)
        object.__setattr__(self, "learnt", Learnt(temperature, scale, self.net))

    @property
    def relaxes(self) -> bool:
        return self.evaluates

    def objection(self, q: Any) -> str | None:
        if self.evaluates:
            return relaxed_objection(q)
        if noise_behind(q) is None:
            return (
                f"{type(innermost(q)).__name__} is neither a Bernoulli nor a (OneHot)Categorical; "
                "use dsvi.estimators.ScoreFunction() here"
            )
        return None

    def control(self, visit: Visit, value: Tensor) -> Control:
        credit = self._network(visit, value) * visit.scale
        total, scale = credit.sum(), self.learnt.scale
        if scale is None:
            return Control(credit, total)
        return Control(credit + scale * visit.credits[0], total + scale * visit.totals[0])

    def _network(self, visit: Visit, value: Tensor) -> Tensor:
        """The network at the relaxed value, per datum, shape ``[K, *plates]``."""
        batch = visit.q.batch_shape
        rows = value.reshape(*batch, -1)
        if self.inputs is not None:
            x = self.inputs
            x = x if isinstance(x, Tensor) else x(*visit.args, **visit.kwargs)
            x = x.detach()
            rows = torch.cat([rows, x.expand(*batch, x.shape[-1]).to(rows)], -1)
        out = self.net(rows)
        if out.shape == (*batch, 1):
            out = out.squeeze(-1)
        if out.shape != batch:
            raise IncompatibleSite(
                f"site {visit.site!r}: RELAX: the network returned shape {tuple(out.shape)} for "
                f"{tuple(rows.shape)}; let it return one number for each row"
            )
        return out.reshape((1,) * (visit.credit.dim() - len(batch)) + tuple(batch))
