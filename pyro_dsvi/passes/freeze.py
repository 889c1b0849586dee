r"""The third pass: the guide again, its parameters not differentiated, at the drawn values.

Freezing is a matter of parameters, not of distributions: in :math:`q(z_2 \mid z_1; \varphi)` the
path through :math:`z_1` must stay.  So the guide is run again with ``requires_grad`` off at its
parameters, and what it computes from the drawn values keeps their gradient.

References:
    :cite:p:`roeder2017stl`, :cite:p:`tucker2019dreg`
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators.law import tensors_of
from pyro_dsvi.graph.messages import log_density
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.sample import reuse


class Freeze(Record):
    """Records the guide's second run, at the values of the first.

    Args:
        drawn: messages of the guide's sites, with the values to use.
        subsamples: messages of its subsampling sites.
    """

    def __init__(self, drawn: dict[str, Any], subsamples: dict[str, Any]) -> None:
        super().__init__(None)
        self.given = {**drawn, **subsamples}

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if msg["name"] in self.given and not msg["is_observed"]:
            reuse(msg, self.given[msg["name"]])


class Gate:
    """The identity whose gradient is multiplied by a factor that is known only later.

    The model and the frozen densities see gated values; what the guide draws downstream sees the
    values themselves, so that no gradient is scaled twice.
    """

    def __init__(self, value: Tensor) -> None:
        self.gain: Tensor | None = None
        self.value = value
        if value.requires_grad:
            self.value = value.view_as(value)
            self.value.register_hook(self._scale)

    def _scale(self, gradient: Tensor) -> Tensor:
        return gradient if self.gain is None else gradient * self.gain


def leaves_behind(tensors: Iterable[Tensor], stop: Iterable[Tensor] = ()) -> dict[int, Tensor]:
    """The leaf tensors whose gradient the given tensors carry, by ``id``.

    Args:
        tensors: where to start.
        stop: tensors beyond which not to look.
    """
    walls = {tensor.grad_fn for tensor in stop}
    pending = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    leaves = {id(t): t for t in tensors if t.is_leaf and t.requires_grad}
    seen = set()
    while pending:
        node = pending.pop()
        if node in seen or node in walls:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and variable.is_leaf:
            leaves[id(variable)] = variable
        pending.extend(after for after, _ in node.next_functions if after is not None)
    return leaves


@contextmanager
def not_differentiated(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Switch ``requires_grad`` off at leaf tensors, for a while."""
    switched = [p for p in parameters if p.requires_grad]
    try:
        for parameter in switched:
            parameter.requires_grad_(False)
        with warnings.catch_warnings():  # pyro.module wonders at parameters without gradient
            warnings.filterwarnings("ignore", message=".*not registered in the param store")
            yield
    finally:
        for parameter in switched:
            parameter.requires_grad_(True)


def frozen_density(msg: Any) -> Tensor:
    """Log density of a site at the drawn value, in nats.

    Raises:
        IncompatibleSite: if the distribution is a flow that knows the densities of its own draws
            alone, by remembering them.
    """
    try:
        return log_density(msg)
    except (KeyError, NotImplementedError) as error:
        raise IncompatibleSite(
            f"site {msg['name']!r}: {type(msg['fn']).__name__} has no density at a given value "
            "(a transform without inverse), so it cannot be frozen; use frozen=False"
        ) from error


def refuse_live(log_q: dict[str, Tensor], drawn: Iterable[Tensor]) -> None:
    """Refuse densities that still reach a parameter other than through the drawn values.

    Raises:
        IncompatibleSite: if some site's density is live: it was computed outside the guide.
    """
    walls = list(drawn)
    for name, density in log_q.items():
        if density.requires_grad and leaves_behind([density], walls):
            raise IncompatibleSite(
                f"site {name!r}: its density depends on a parameter through a tensor computed "
                "outside the guide, so it cannot be frozen, and a mix of frozen and live sites is "
                "biased; compute that tensor inside the guide, or use frozen=False"
            )


def parameters_of(record: Record, guide: Any) -> list[Tensor]:
    """Every leaf tensor that the guide's first run was computed from."""
    live = [torch.as_tensor(msg["value"]) for msg in record.sites.values()]
    live += [t for msg in record.sites.values() for t in tensors_of(msg["fn"])]
    leaves = leaves_behind([t for t in live if t.requires_grad])
    if isinstance(guide, torch.nn.Module):
        leaves.update((id(p), p) for p in guide.parameters())
    return list(leaves.values())
