r"""The gains on gated draws: what a frozen density's missing gradient does to the path.

A density that stands in the log weight with a factor c (its scale and mask, subsampling of shared
plates apart) and is frozen leaves the path the factor

.. math:: 1 - c\,\partial_k^2 B / \partial_k B = 1 - c\,(1 - g_k)

The factor is that of the site whose parameters are asked for, and a gate cannot tell on whose
account a gradient arrives.  So all draws under one bound must have the same c.

References:
    :cite:p:`tucker2019dreg`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Latent, Run, same_weight


class Gated(Protocol):
    """A value whose incoming gradient is multiplied by ``gain``."""

    gain: Tensor | None
    value: Tensor


def open_gates(
    bound: Bound,
    bundles: Sequence[Bundle],
    runs: Iterator[tuple[Run, Tensor]],
    gates: Sequence[Mapping[str, Gated]],
    layout: Layout,
) -> None:
    """Give each gated draw the gain of the bound that it stands under.

    Args:
        bound: the bound.
        bundles: the terms that stand under one bound.
        runs: the runs, each with the indices of its particles.
        gates: for each run, the gates by site.
        layout: layout of the step.

    Raises:
        IncompatibleSite: if sites under one bound are scaled or masked differently.
    """
    pairs = list(zip(runs, gates, strict=True))
    for bundle in bundles:
        gain = None
        for (run, rows), by_site in pairs:
            latents = [run.latents[site] for site in sorted(by_site.keys() & bundle.latents)]
            if not any(by_site[latent.site].value.requires_grad for latent in latents):
                continue
            _refuse_unequal(latents)
            gain = bound.gain(bundle.log_w.detach()) if gain is None else gain
            for latent in latents:
                by_site[latent.site].gain = _of_site(gain[rows], latent, bundle.weight, layout)


def _of_site(gain: Tensor, latent: Latent, weight: float, layout: Layout) -> Tensor:
    """The gain in the shape of a site's value."""
    event = latent.q.event_dim
    batch = latent.value.dim() - event
    factor: Any = latent.scale / weight
    if isinstance(latent.mask, Tensor):
        mask = latent.mask.expand(latent.value.shape[:batch]).to(gain)
        factor = factor * layout.arrange(mask, len(gain))
    elif latent.mask is False:
        factor = 0.0
    gain = 1 - factor * (1 - gain)
    return gain.reshape(tuple(gain.shape[gain.dim() - batch :]) + (1,) * event)


def _refuse_unequal(latents: Sequence[Latent]) -> None:
    first = latents[0]
    for latent in latents[1:]:
        if not same_weight(first, latent):
            raise IncompatibleSite(
                f"site {latent.site!r}: its scale or mask differs from that of {first.site!r} "
                "under the same K-sample bound, so no doubly reparameterised gradient is right "
                "for both; scale and mask them alike, or use frozen=False"
            )
