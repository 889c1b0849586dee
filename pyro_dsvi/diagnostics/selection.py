"""Handlers that pick what a step is made of: which terms count, and which data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.estimators.law import tensors_of
from pyro_dsvi.graph.nodes import PARTICLES


@dataclass(frozen=True)
class Terms:
    """Which terms of the log weight count; the rest is masked, but drawn all the same.

    Args:
        site: those of this site, if it is given.
        plate: those in this plate, if it is given.
        elements: of these elements of the plate, if they are given.
        none: no term at all.
    """

    site: str | None = None
    plate: str | None = None
    elements: tuple[int, ...] | None = None
    none: bool = False

    @property
    def all(self) -> bool:
        """Whether every term counts."""
        return self == Terms()


@dataclass(frozen=True)
class Extent:
    """A vectorised plate: its dimension from the right, elements in a step, and elements in all."""

    dim: int
    minibatch: int
    size: int


class Only(Messenger):
    """Masks all terms but those selected, in the model and in the guide alike.

    Args:
        terms: what counts.

    Attributes:
        sites: names of the sites that have a term, in order.
        plates: the vectorised plates that these live in, by name.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.terms = terms
        self.sites: dict[str, None] = {}
        self.plates: dict[str, Extent] = {}

    def _pyro_sample(self, msg: Any) -> None:
        own = getattr(msg["fn"], "_mask", None)
        if site_is_subsample(msg) or msg["mask"] is False or own is False:
            return
        if msg["infer"].get("_do_not_trace"):
            return
        self.sites[msg["name"]] = None
        frames = {f.name: f for f in msg["cond_indep_stack"] if f.dim is not None}
        frames.pop(PARTICLES, None)
        for name, frame in frames.items():
            full = frame.size if frame.full_size is None else frame.full_size
            self.plates[name] = Extent(frame.dim, frame.size, full)
        if not self.terms.all:
            keep = self._kept(msg, frames)
            msg["mask"] = keep & msg["mask"] if isinstance(msg["mask"], Tensor) else keep

    def _kept(self, msg: Any, frames: Mapping[str, Any]) -> Tensor:
        device = next((t.device for t in tensors_of(msg["fn"])), torch.device("cpu"))
        terms = self.terms
        other = terms.site is not None and terms.site != msg["name"]
        outside = terms.plate is not None and terms.plate not in frames
        if terms.none or other or outside:
            return torch.tensor(False, device=device)
        if terms.plate is None or terms.elements is None:
            return torch.tensor(True, device=device)
        frame = frames[terms.plate]
        keep = torch.zeros(frame.size, dtype=torch.bool, device=device)
        keep[list(terms.elements)] = True
        return keep.reshape(-1, *[1] * (-frame.dim - 1))


class GivenMinibatch(Messenger):
    """Gives plates their minibatches.

    Args:
        indices: the elements of each, by the plate's name.
    """

    def __init__(self, indices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.indices = indices

    def _pyro_sample(self, msg: Any) -> None:
        given = self.indices.get(msg["name"])
        if given is not None and site_is_subsample(msg) and not msg["done"]:
            msg["value"], msg["done"] = given, True


class SeenMinibatches(Messenger):
    """Notes which minibatches were drawn, and from how many elements.

    Attributes:
        indices: the elements drawn, by the plate's name.
        sizes: how many there are in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.indices: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            return
        size, part = msg["fn"].size, msg["fn"].subsample_size
        if part is not None and part < size:
            self.indices[msg["name"]] = msg["value"]
            self.sizes[msg["name"]] = size
