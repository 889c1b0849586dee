"""Which selections of terms a step is repeated with, to see what of its noise each term brings.

A term has a share of its own only where the estimate is a sum over terms, which is tried first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.scenes import Stage
from pyro_dsvi.diagnostics.selection import Extent, Only, Terms

_CLOSE = 1e-3  # relative to the largest part: rounding of single precision, well above


@dataclass(frozen=True)
class AddsUp:
    """The sites and the plates over which a step's estimate is a sum.

    Attributes:
        sites: the sites' names.
        plates: by plate, its extent.
    """

    sites: tuple[str, ...]
    plates: Mapping[str, Extent]


def what_adds_up(
    stage: Stage, minibatches: Sequence[Mapping[str, Tensor]], seen: Only
) -> tuple[AddsUp, list[str]]:
    """Try it on one draw: a bound of several particles, say, is no sum of terms."""
    none, notes = Terms(none=True), []
    sites, plates = tuple(seen.sites), {}
    parts = stage.once(minibatches[0], [Terms(), none, *(Terms(site=name) for name in sites)])
    if not _close(parts[0] - parts[1], (parts[2:] - parts[1]).sum(0), parts):
        notes.append("the estimate is no sum over cost terms: their shares are left out")
        sites = ()
    for name, extent in seen.plates.items():
        if extent.minibatch < 2:
            halves = [Terms(plate=name)]
        else:
            order = tuple(range(extent.minibatch))
            cut = extent.minibatch // 2
            halves = [Terms(plate=name, elements=e) for e in (order[:cut], order[cut:])]
        parts = stage.once(minibatches[0], [Terms(plate=name), none, *halves])
        whole, rest = parts[0] - parts[1], (parts[2:] - parts[1]).sum(0)
        if _close(whole, rest, parts):
            plates[name] = extent
        else:
            notes.append(f"the estimate is no sum over the elements of plate {name!r}")
    return AddsUp(sites, plates), notes


def _close(a: Tensor, b: Tensor, parts: Tensor) -> bool:
    return bool((a - b).abs().max() <= _CLOSE * parts.abs().max())


@dataclass(frozen=True)
class Plan:
    """Selections of terms, and where each stands among them.

    Attributes:
        selections: the whole first, then no term at all, then the others.
        sites: by site, where its terms stand.
        plates: by plate its extent, where all its terms stand, and where those of single elements.
    """

    selections: tuple[Terms, ...]
    sites: Mapping[str, int]
    plates: Mapping[str, tuple[Extent, int, slice]]

    @classmethod
    def of(cls, adds_up: AddsUp, num_elements: int) -> Self:
        """Select each site's terms, each plate's, and those of a few of its elements."""
        selections = [Terms(), Terms(none=True)]
        sites, plates = {}, {}
        for name in adds_up.sites:
            sites[name] = len(selections)
            selections.append(Terms(site=name))
        for name, extent in adds_up.plates.items():
            chosen = torch.randperm(extent.minibatch)[:num_elements].tolist()
            whole = len(selections)
            selections += [Terms(plate=name), *(Terms(plate=name, elements=(i,)) for i in chosen)]
            plates[name] = (extent, whole, slice(whole + 1, len(selections)))
        return cls(tuple(selections), sites, plates)
