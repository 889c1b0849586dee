r"""The log weights of a K-sample bound, per element of the plates that every term shares.

Terms are *tied* when a latent reaches both, or when they live in the same plates.  A group of tied
terms has one log weight per particle and per element of the plates that all its terms share:

.. math:: \ell_k = \sum_{c \in \text{group}} \; \sum_{\text{plates not shared}} c_k

Subsampling of a shared plate, and a scale that all terms have in common, stand outside the bound
(``weight``); inside the logarithm they would leave no bound at all.  Terms that no latent reaches
are the same for every particle and pass through the bound unchanged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Cost, Run


@dataclass(eq=False)
class Bundle:
    """Terms that stand under one bound.

    Attributes:
        log_w: their log weight, in nats, shape ``[K, *plates]``, differentiable.
        of_model: the model's part of it, of a shape that broadcasts to that.
        of_guide: the guide's part, with its sign.
        shared: names of the plates that every term shares.
        merged: names of the plates whose elements the bound ties together.
        latents: names of the latents that reach its terms.
        reach: the same as a bit set.
        weight: factor outside the bound.
    """

    log_w: Tensor
    of_model: Tensor
    of_guide: Tensor
    shared: frozenset[str]
    merged: frozenset[str]
    latents: frozenset[str]
    reach: int
    weight: float


def bundles(runs: Sequence[Run], layout: Layout) -> tuple[list[Bundle], Tensor | None]:
    """Group the terms of all runs and reduce each group to log weights.

    Returns:
        The groups, and the sum of the terms that no latent reaches, averaged over particles
        (None if there are none).
    """
    names = _latent_bits(runs)
    free: list[Tensor] = []
    tied: list[tuple[Run, Cost]] = []
    for run in runs:
        for cost in run.costs:
            if cost.reach == 0:
                free.append(layout.arrange(cost.value, run.rows).mean(0).sum() * run.rows)
            else:
                tied.append((run, cost))
    groups = _groups(tied)
    rows = sum(run.rows for run in runs)
    constant = torch.stack(free).sum() / rows if free else None
    return [_reduce(group, runs, layout, names) for group in groups], constant


def _latent_bits(runs: Sequence[Run]) -> dict[str, int]:
    return {name: latent.bit for run in runs for name, latent in run.latents.items()}


def _groups(tied: list[tuple[Run, Cost]]) -> list[list[tuple[Run, Cost]]]:
    """Connected components of the terms: merge what shares a latent or a plate set."""
    groups: list[tuple[int, set[frozenset[str]], list[tuple[Run, Cost]]]] = []
    for run, cost in tied:
        reach, plates, members = cost.reach, {cost.plates}, [(run, cost)]
        rest = []
        for group in groups:
            if group[0] & reach or cost.plates in group[1] or plates & group[1]:
                reach |= group[0]
                plates |= group[1]
                members = group[2] + members
            else:
                rest.append(group)
        groups = [*rest, (reach, plates, members)]
    return [members for _, _, members in groups]


def _reduce(
    group: list[tuple[Run, Cost]], runs: Sequence[Run], layout: Layout, names: dict[str, int]
) -> Bundle:
    sets = {cost.plates for _, cost in group}
    shared = frozenset.intersection(*sets)
    merged = frozenset.union(*sets) - shared
    weight = 1.0
    for name in shared:
        weight *= layout.plates[name].scale
    weight *= _common_scale([cost for _, cost in group], layout)
    outer = shared, weight
    sides = []
    for of_guide in (False, True):
        for run in runs:
            costs = [c for owner, c in group if owner is run and c.of_guide is of_guide]
            sides.append(_sum_of(costs, run, outer, layout))
    if len(runs) > 1:
        shape = torch.broadcast_shapes(*(side.shape[1:] for side in sides))
        sides = [side.expand(len(side), *shape) for side in sides]
    model, guide = _cat(sides[: len(runs)]), _cat(sides[len(runs) :])
    reach = 0
    for _, cost in group:
        reach |= cost.reach
    latents = frozenset(name for name, bit in names.items() if bit & reach)
    return Bundle(model + guide, model, guide, shared, merged, latents, reach, weight)


def _sum_of(
    costs: Sequence[Cost], run: Run, outer: tuple[frozenset[str], float], layout: Layout
) -> Tensor:
    """Sum of one side's terms in one run, less the factor outside, shape ``[rows, *plates]``."""
    shared, weight = outer
    total: Tensor | None = None
    for cost in costs:
        term = layout.sum_to(layout.arrange(cost.value, run.rows), cost.plates, shared)
        total = term if total is None else total + term
    if total is None:  # no such term, or in a branch that this particle did not take
        return torch.zeros((run.rows,) + (1,) * layout.depth, device=layout.device)
    return total if weight == 1 else total / weight


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _common_scale(costs: list[Cost], layout: Layout) -> float:
    """The factor that all terms carry beyond subsampling (``poutine.scale`` around everything)."""
    extra = extra_scales(costs, layout)
    common = extra.pop() if len(extra) == 1 else 1.0
    return common or 1.0


def extra_scales(costs: Iterable[Cost], layout: Layout) -> set[float]:
    """The factors that terms carry beyond subsampling of vectorised plates.

    Those of plates that are iterated over are among them; one that is a tensor counts for none.
    """
    extra = set()
    for cost in costs:
        if isinstance(cost.scale, Tensor):
            return {1.0}
        subsampling = 1.0
        for name in cost.plates:
            subsampling *= layout.plates[name].scale
        extra.add(round(cost.scale / subsampling, 12))
    return extra
