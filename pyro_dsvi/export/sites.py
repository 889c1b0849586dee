"""What a program's sites are, and their values with one axis for each plate that they live in.

A program run for many draws side by side gives tensors of shape ``[S, *plate dims, *event]``, with
an axis of length one for every plate that a site is not in.  Exported arrays have neither those
axes nor any doubt about which axis is which: ``[S, *own plates, *event]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from pyro.distributions.unit import Unit
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, SiteMismatch
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.graph.nodes import PARTICLES


class Kind(Enum):
    """What a sample site of the model is to its user."""

    LATENT = "latent"
    OBSERVED = "observed"
    DETERMINISTIC = "deterministic"


def kind_of(msg: Any) -> Kind | None:
    """The kind of a site; None for a factor, which has no value."""
    if isinstance(innermost(msg["fn"]), Unit):
        return None
    if msg["infer"].get("_deterministic"):
        return Kind.DETERMINISTIC
    return Kind.OBSERVED if msg["is_observed"] else Kind.LATENT


@dataclass(frozen=True)
class Site:
    """A site of the model, as one run for one draw shows it.

    Attributes:
        name: its name.
        kind: what it is.
        plates: name, dimension from the right, and size of each plate it lives in, outermost first.
        event_dim: dimensions of one element.
    """

    name: str
    kind: Kind
    plates: tuple[tuple[str, int, int], ...]
    event_dim: int

    def arrange(self, x: Tensor, rows: int, nesting: int | None, event_dim: int) -> Tensor:
        """A tensor of this site as ``[rows, *own plates, *event]``.

        Args:
            x: in the shape that the program gave it.
            rows: draws in the run.
            nesting: plate dimensions right of the draws' own; None if the run was for one draw.
            event_dim: dimensions of one element; 0 for a log density.

        Raises:
            SiteMismatch: if a dimension belongs to no plate.
        """
        batch, event = x.shape[: x.dim() - event_dim], x.shape[x.dim() - event_dim :]
        depth = len(batch) if nesting is None else nesting
        depth = max([depth, *(-dim for _, dim, _ in self.plates)])
        own = {dim: size for _, dim, size in self.plates}
        wanted = [rows, *(own.get(dim, 1) for dim in range(-depth, 0))]
        try:
            full = x.expand(*wanted, *event)
        except RuntimeError as error:
            raise SiteMismatch(
                f"site {self.name!r}: it has shape {tuple(batch)} left of its event, its plates "
                f"declare {tuple(wanted[1:])}; enclose the batch in a pyro.plate, or move it into "
                "the event with .to_event(...)"
            ) from error
        return full.reshape(rows, *(size for _, _, size in self.plates), *event)


def sites_of(messages: Mapping[str, Any]) -> dict[str, Site]:
    """The sites of a run for one draw; factors are left out.

    Raises:
        IncompatibleSite: if a plate holds a minibatch.
    """
    sites = {}
    for name, msg in messages.items():
        kind = kind_of(msg)
        if kind is not None:
            plates = _plates(msg)
            event_dim = getattr(msg["fn"], "event_dim", 0)
            if kind is Kind.DETERMINISTIC:
                event_dim = _event_dim(msg, {dim: size for _, dim, size in plates})
            sites[name] = Site(name, kind, plates, event_dim)
    return sites


def _plates(msg: Any) -> tuple[tuple[str, int, int], ...]:
    plates = []
    for frame in msg["cond_indep_stack"]:
        if frame.full_size is not None and frame.size != frame.full_size:
            raise minibatch(frame.name, frame.size, frame.full_size)
        if frame.dim is not None and frame.name != PARTICLES:
            plates.append((frame.name, frame.dim, frame.size))
    return tuple(sorted(plates, key=lambda plate: plate[1]))


def minibatch(plate: str, size: int, full_size: int) -> IncompatibleSite:
    """The error for a plate that does not hold all its elements."""
    return IncompatibleSite(
        f"plate {plate!r} holds {size} of its {full_size} elements, a minibatch, which would be "
        "exported as the data; call the programs with the whole data and no subsample_size"
    )


def _event_dim(msg: Any, plates: Mapping[int, int]) -> int:
    """Of a deterministic site, whose distribution takes all dimensions for the event's.

    The fewest that leave a batch shape which the site's plates declare.
    """
    value = msg["value"]
    if msg["fn"].event_dim < value.dim():  # its author has said so
        return msg["fn"].event_dim
    for event_dim in range(value.dim()):
        batch = value.shape[: value.dim() - event_dim]
        dims = range(-len(batch), 0)
        if all(size in (1, plates.get(d, 1)) for d, size in zip(dims, batch, strict=True)):
            return event_dim
    return value.dim()


def difference(ours: Tensor, theirs: Tensor) -> bool:
    """Whether what was computed for many draws at once is not what it is for one."""
    if ours.shape != theirs.shape:
        return True
    ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)
    return not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True)
