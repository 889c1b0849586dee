r"""What each draw is answerable for under an additive bound: its downstream costs.

.. math:: \hat Q_z = \sum_{c \,:\, z \prec c} c

cut down twice: to the costs that the latent influences, and within these to the latent's own plate
elements.  All latents of a run are served by a handful of tensor operations.

References:
    :cite:p:`schulman2015scg`, :cite:p:`ranganath2014bbvi`
"""

from collections import defaultdict
from functools import lru_cache

import torch
from torch import Tensor

from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Cost, Latent, Run


def downstream_credits(run: Run, layout: Layout) -> dict[str, Tensor]:
    """Credit of each latent of a run that needs it, in nats, shape ``[rows, *plates]``."""
    costs: dict[frozenset[str], list[Cost]] = defaultdict(list)
    for cost in run.costs:
        costs[cost.plates].append(cost)
    latents: dict[frozenset[str], list[Latent]] = defaultdict(list)
    for latent in run.latents.values():
        if latent.score is not None:
            latents[latent.plates].append(latent)
    if not latents:
        return {}
    with torch.no_grad():
        stacks = {plates: _stack(group, run, layout) for plates, group in costs.items()}
    credit: dict[str, Tensor] = {}
    for target, group in latents.items():
        total: Tensor | None = None
        bits = tuple(latent.bit for latent in group)
        for plates, stack in stacks.items():
            reduced = layout.sum_to(stack, plates, target)
            reaches = tuple(cost.reach for cost in costs[plates])
            part = _masked_sum(bits, reaches, reduced)
            total = part if total is None else total + part
        shape = _shape(group[0], run, layout)
        for latent, row in zip(group, total.expand(len(group), *shape), strict=True):
            credit[latent.site] = row
    return credit


def _stack(group: list[Cost], run: Run, layout: Layout) -> Tensor:
    """Costs that live in the same plates, as one tensor ``[costs, rows, *plates]``."""
    values = [cost.value for cost in group]
    if len({(value.shape, value.device) for value in values}) == 1:
        stack = torch.stack(values)
        arranged = layout.arrange(values[0], run.rows).shape
        return stack.reshape(len(values), *arranged) if stack[0].numel() == arranged.numel() else (
            torch.stack([layout.arrange(value, run.rows) for value in values])
        )
    return torch.stack([layout.arrange(value, run.rows) for value in values])


def _masked_sum(bits: tuple[int, ...], reaches: tuple[int, ...], stack: Tensor) -> Tensor:
    """Sum the stacked costs over those that each latent influences: ``[latents, rows, *plates]``.

    A matrix product would turn a cost of minus infinity into NaN for every latent.
    """
    mask = _influences(bits, reaches, stack.device)
    if mask is None:
        return stack.sum(0).expand(len(bits), *stack.shape[1:])
    mask = mask.reshape(mask.shape + (1,) * (stack.dim() - 1))
    return torch.where(mask, stack, stack.new_zeros(())).sum(1)


@lru_cache(maxsize=256)
def _influences(
    bits: tuple[int, ...], reaches: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Which latent influences which cost; None if every one influences all.

    Kept from step to step, since programs rarely change their structure.
    """
    rows = [[bool(bit & reach) for reach in reaches] for bit in bits]
    return None if all(map(all, rows)) else torch.tensor(rows, device=device)


def _shape(latent: Latent, run: Run, layout: Layout) -> torch.Size:
    with torch.no_grad():
        return layout.arrange(latent.score, run.rows).shape
