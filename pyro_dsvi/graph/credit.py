r"""What each draw is answerable for under an additive bound: its downstream costs.

.. math:: \hat Q_z = \sum_{c \,:\, z \prec c} c

cut down twice: to the costs that the latent influences, and within these to the latent's own plate
elements.  All latents of a run are served by a handful of tensor operations.

References:
    :cite:p:`schulman2015scg`, :cite:p:`ranganath2014bbvi`
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Cost, Latent, Run, influences


@torch.no_grad()
def downstream_credits(run: Run, layout: Layout) -> Iterator[tuple[list[Latent], Tensor]]:
    """Credits of a run's latents, for those that live in the same plates together.

    Yields:
        The latents, and their credits in nats, shape ``[latents, rows, *plates]``.
    """
    latents = run.latents.values()
    wanted = [x for x in latents if x.score is not None and x.site not in run.branches]
    yield from _credits(wanted, run, layout)


def downstream_credit(site: str, run: Run, layout: Layout) -> Tensor:
    """Credit of one latent in nats, shape ``[rows, *plates]``, differentiable."""
    ((_, credit),) = _credits([run.latents[site]], run, layout)
    return credit[0]


def _credits(
    wanted: Iterable[Latent], run: Run, layout: Layout
) -> Iterator[tuple[list[Latent], Tensor]]:
    latents: dict[frozenset[str], list[Latent]] = defaultdict(list)
    for latent in wanted:
        latents[latent.plates].append(latent)
    if not latents:
        return
    costs: dict[frozenset[str], list[Cost]] = defaultdict(list)
    for cost in sorted(run.costs, key=lambda cost: cost.of_guide):
        costs[cost.plates].append(cost)
    stacks = {plates: _stack(group, run, layout) for plates, group in costs.items()}
    for target, group in latents.items():
        bits = tuple(latent.bit for latent in group)
        parts = []
        for plates, stack in stacks.items():
            reaches = tuple(cost.reach for cost in costs[plates])
            parts.append(_masked_sum(bits, reaches, layout.sum_to(stack, plates, target)))
        total = sum(parts[1:], parts[0])
        shape = (len(group), *_shape(group[0], run, layout))
        yield group, total if total.shape == shape else total.expand(shape)


def _stack(group: list[Cost], run: Run, layout: Layout) -> Tensor:
    """Costs that live in the same plates, the guide's last: ``[costs, rows, *plates]``."""
    values = [cost.log_density for cost in group]
    alike = len({(value.shape, value.device) for value in values}) == 1
    arranged = layout.arrange(values[0], run.rows).shape
    if alike and values[0].shape.numel() == arranged.numel():
        stack = torch.stack(values).reshape(len(values), *arranged)
    else:
        stack = torch.stack([layout.arrange(value, run.rows) for value in values])
    first_of_guide = sum(not cost.of_guide for cost in group)
    stack[first_of_guide:].neg_()
    return stack


def _masked_sum(bits: tuple[int, ...], reaches: tuple[int, ...], stack: Tensor) -> Tensor:
    """Sum the stacked costs over those that each latent influences: ``[latents, rows, *plates]``.

    The first axis is of size one where all latents influence all costs.  A matrix product would
    turn a cost of minus infinity into NaN for every latent.
    """
    mask = _influences(bits, reaches, stack.device)
    if mask is None:
        return stack.sum(0, keepdim=True)
    mask = mask.reshape(mask.shape + (1,) * (stack.dim() - 1))
    return torch.where(mask, stack, 0.0).sum(1)


@lru_cache(maxsize=256)
def _influences(
    bits: tuple[int, ...], reaches: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Which latent influences which cost; None if every one influences all.

    Kept from step to step, since programs rarely change their structure.
    """
    rows = [[influences(bit, reach) for reach in reaches] for bit in bits]
    return None if all(map(all, rows)) else torch.tensor(rows, device=device)


def _shape(latent: Latent, run: Run, layout: Layout) -> torch.Size:
    assert latent.score is not None  # only latents with a score are asked for
    return layout.arrange(latent.score.detach(), run.rows).shape
