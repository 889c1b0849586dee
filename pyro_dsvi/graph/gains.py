r"""The gains on gated draws: what a frozen density's missing gradient does to the path.

A density that stands in the log weight with a factor c (its scale and mask, subsampling of shared
plates apart) and is frozen leaves the path the factor

.. math:: 1 - c\,\partial_k^2 B / \partial_k B = 1 - c\,(1 - g_k)

The factor is that of the site whose parameters are asked for, and a gate cannot tell on whose
account a gradient arrives.  So all draws under one bound must have the same c.

Where the guide follows something else than the model's bound, a gate also turns the one's weight
into the other's, be the densities frozen or live.

References:
    :cite:p:`tucker2019dreg`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Latent, Run, same_weight
from pyro_dsvi.graph.sides import are_apart, sides


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
        ends = None
        for (run, rows), by_site in pairs:
            latents = [run.latents[site] for site in sorted(by_site.keys() & bundle.latents)]
            if not any(by_site[latent.site].value.requires_grad for latent in latents):
                continue
            if run.frozen:
                _refuse_unequal(latents)
            ends = _ends(bound, bundle.log_w.detach(), run.frozen) if ends is None else ends
            live, frozen = (gain[rows] for gain in ends)
            for latent in latents:
                gain = live
                if run.frozen:
                    factor = _factor(latent, bundle.weight, live, layout)
                    gain = torch.lerp(*torch.broadcast_tensors(live, frozen, factor))
                by_site[latent.site].gain = _of_site(gain, latent)


def _ends(bound: Bound, log_w: Tensor, frozen: bool) -> tuple[Tensor, Tensor]:
    """The gains for densities that are live, and for frozen ones that count in full."""
    if are_apart(bound, frozen):
        return sides(bound, log_w, frozen)[2:]
    return torch.ones_like(log_w), bound.gain(log_w)


def _factor(latent: Latent, weight: float, like: Tensor, layout: Layout) -> Tensor:
    """The factor with which a site's density stands in the log weight, ``[rows, *plates]``."""
    factor: Any = latent.scale / weight
    if isinstance(latent.mask, Tensor):
        batch = latent.value.dim() - latent.q.event_dim
        mask = latent.mask.expand(latent.value.shape[:batch]).to(like)
        factor = factor * layout.arrange(mask, len(like))
    elif latent.mask is False:
        factor = 0.0
    return torch.as_tensor(factor, dtype=like.dtype, device=like.device)


def _of_site(gain: Tensor, latent: Latent) -> Tensor:
    """A gain in the shape of a site's value."""
    event = latent.q.event_dim
    batch = latent.value.dim() - event
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
