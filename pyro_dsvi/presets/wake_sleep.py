r"""Reweighted wake-sleep: wake-theta, and for the guide wake-phi, sleep-phi or their mix.

.. math:: \theta: \; \nabla_\theta \log \tfrac1K \textstyle\sum_k e^{\ell_k}, \qquad
    \varphi: \; (1 - s) \sum_k \tilde w_k \nabla_\varphi \log q(z_k \mid x)
    + s\, \mathbb{E}_{p(z', x')} \nabla_\varphi \log q(z' \mid x')

per element of the plates that all terms share, with the scale of a minibatch outside.

References:
    :cite:p:`bornschein2015rws`, :cite:p:`le2019revisiting`, :cite:p:`hinton1995wake`
"""

from collections.abc import Mapping
from typing import Any

import torch

from pyro_dsvi import bounds
from pyro_dsvi.errors import InvalidArgument, check_whole
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.graph.surrogate import Assembled
from pyro_dsvi.objective import Objective, Program
from pyro_dsvi.passes.dream import Arguments, Dreamer
from pyro_dsvi.passes.execute import Execution


class RWS(Objective):
    """Reweighted wake-sleep; ``-loss`` is IWAE's bound, which the model climbs.

    The guide fits its density to weighted draws, so that discrete and continuous sites are served
    alike, without baselines; with ``frozen=True`` reparameterised sites get the wake phase by their
    path, which is less noisy.

    Asleep, the model's observed sites are drawn by the model, and the guide must see these data
    instead of the given ones.  They are put in the place of the argument (also one within a dict or
    list) that the model observes, or of its rows in the minibatch.  Where the data come to the
    programs in another way, ``dream`` says what the guide's arguments are.

    Args:
        num_particles: K, at least 2 but where ``sleep`` is 1.
        sleep: share s of the sleep phase in the guide's update, in [0, 1]: 0 is wake-phi alone, 1
            sleep-phi alone.
        num_dreams: dreams in a step, each of one minibatch.
        dream: gives the guide's positional arguments as a tuple, from a mapping with the dreamt
            data and the minibatches' indices by site, and the programs' own arguments.  Looking for
            a minibatch's rows keeps a step from being compiled, which this spares.
        options: as for :class:`Objective`; ``chunk`` only without a sleep phase.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> wake = dsvi.RWS(8)
        >>> mixed = dsvi.RWS(8, sleep=0.5)
        >>> def with_rows(dreamt, x):
        ...     return (x.index_copy(0, dreamt["data"], dreamt["x"]),)
        >>> by_rows = dsvi.RWS(8, sleep=0.5, dream=with_rows)
    """

    def __init__(
        self,
        num_particles: int,
        *,
        sleep: float = 0.0,
        num_dreams: int = 1,
        dream: Arguments | None = None,
        **options: Any,
    ) -> None:
        if isinstance(sleep, bool) or not 0 <= sleep <= 1:
            raise InvalidArgument(f"RWS: sleep must be in [0, 1], got {sleep!r}")
        check_whole("RWS: num_dreams", num_dreams, 1)
        if num_particles == 1 and sleep < 1:
            raise InvalidArgument(
                "RWS: one particle has the weight 1 wherever it lies, which teaches the guide "
                "nothing; pass num_particles >= 2, or sleep=1"
            )
        if sleep and options.get("chunk") is not None:
            raise InvalidArgument(
                f"RWS: chunk={options['chunk']} with sleep={sleep}: a step in chunks has no sleep "
                "phase; leave one of the two out"
            )
        super().__init__(bounds.RWS(wake=1 - sleep), num_particles=num_particles, **options)
        self.sleep = sleep
        self.num_dreams = num_dreams
        self.dream = dream

    def _step(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        learning: bool = True,
    ) -> tuple[Assembled, list[Execution]]:
        assembled, executions = super()._step(model, guide, args, kwargs, learning)
        if self.sleep and learning and torch.is_grad_enabled():
            minibatch: dict[str, Any] = {}
            for execution in executions:
                minibatch |= execution.guide.subsamples | execution.model.subsamples
            minibatch.pop(PARTICLES, None)
            dreamer = Dreamer(model, guide, args, kwargs, self.dream, minibatch)
            for _ in range(self.num_dreams):
                term = dreamer.log_q() * (self.sleep / self.num_dreams)
                assembled.surrogate = assembled.surrogate + term
        return assembled, executions
