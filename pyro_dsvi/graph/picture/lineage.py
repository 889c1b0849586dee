r"""Which nodes lie directly behind each node: :math:`\prec` followed one step at a time.

The same mechanism as the surrogate's (:class:`Influence`), with marks that stop at the nearest
node: where the surrogate lets a draw carry on what reached its distribution, here it carries
itself alone, and so does a parameter, an argument, and every value that a distribution is made
from.  All paths together are then the surrogate's relation again.

A value is a node of its own if it was computed: a view of another node's value (an element, an
expanded or reshaped tensor) is that node.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.unit import Unit
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.messages import number_of
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.graph.picture.node import Kind, Node, Plate, Role

_View = tuple[int, int, int]


class Lineage(Influence):
    """Follows one execution of guide and model from node to node.

    Args:
        latents: names of the guide's draws, which no other node may have.

    Attributes:
        nodes: the nodes met so far, but for the costs.
        parents: bit set of what lies directly behind each of them.
        plates: the plates met so far.
        draws: names of the guide's draws.
        arguments: names of the computed values that distributions are made from.
    """

    def __init__(self, latents: Sequence[str]) -> None:
        super().__init__()
        # Nothing is followed before the first draw; here everything is, from the beginning.
        self.drawn = self._begun = self.bit("")
        self.nodes: dict[str, Node] = {}
        self.parents: dict[str, int] = {}
        self.plates: dict[str, Plate] = {}
        self.draws = frozenset(latents)
        self.arguments: set[str] = set()
        self._owners: dict[int, int] = {}  # bits of the nodes whose values lie in a storage
        self._computed: dict[_View, str] = {}
        self._supports = 0  # bits of the draws that have taken their whole support as their value
        self._held: list[Tensor] = []  # keeps the storages' addresses from being used again

    # -- what becomes a node -----------------------------------------------------------------

    def drew(self, site: str, value: Tensor, reach: int, own: bool) -> int:
        """A draw carries itself alone."""
        self.drawn |= self.bit(site)
        return self._carries(site, value)

    def of(self, x: Any) -> int:
        return super().of(x) & ~self._begun

    def add_draw(self, msg: Any, kind: Kind, parents: int) -> None:
        """A latent of the guide, drawn or, if it is a point mass, computed."""
        name = self._add(msg["name"], kind, Role.GUIDE, self.plates_of(msg), parents)
        if number_of(msg) is not None:
            self._supports |= self.bit(name)

    def add_input(self, name: str, value: Tensor, role: Role) -> None:
        """A parameter, or data; unless it is one already."""
        with self._aside():
            if _storage(value) not in self._owners:
                kind = "data" if role is Role.DATA else "parameter"
                self._carries(self._add(self._free(name, kind), Kind.INPUT, role), value)

    def is_view_of_parameter(self, value: Tensor, leaf: Tensor) -> None:
        """A constrained parameter is the parameter."""
        with self._aside():
            bits = self._owners.get(_storage(leaf), 0)
            if bits:
                self._own(value, bits)

    def add_computed(self, msg: Any, role: Role) -> None:
        """The value of a ``pyro.deterministic`` site."""
        value, name = msg["value"], msg["name"]
        if isinstance(value, Tensor):
            with self._aside():
                parents = self.of(value)
                self._add(name, Kind.DETERMINISTIC, role, self.plates_of(msg), parents)
                self._place(name, value)

    def read_law(self, msg: Any, role: Role) -> None:
        """Make nodes of the computed values that a site's distribution is made from."""
        if isinstance(msg["fn"], Unit):  # a factor is a cost as it stands
            return
        with self._aside():
            for argument, tensor, batch in arguments_of(msg["fn"]):
                known = self._computed.get(_view(tensor))
                if known is not None:
                    self._mark([tensor], self.bit(known))
                elif _storage(tensor) not in self._owners:
                    self._read_argument(msg, role, argument, tensor, batch)

    def _read_argument(
        self, msg: Any, role: Role, argument: str, tensor: Tensor, batch: int
    ) -> None:
        parents = self.of(tensor)
        if not parents:
            return
        letter = "q" if role is Role.GUIDE else "p"
        name = self._free(f"{letter}({msg['name']}).{argument}", role.value)
        # A support is the same in all elements of a plate, but the site's probabilities are not.
        inside = {p for v in self.names(parents & self._supports) for p in self.nodes[v].plates}
        plates = tuple(
            frame.name
            for frame in self._frames(msg)
            if frame.name in inside or _varies(tensor, frame.dim, batch)
        )
        self.arguments.add(name)
        self._add(name, Kind.DETERMINISTIC, role, plates, parents)
        self._place(name, tensor)

    def read_observed(self, msg: Any) -> None:
        """What a site observes is an input, unless it was computed from one."""
        value = msg["value"]
        if not isinstance(value, Tensor) or not value.numel() or self.of(value):
            return
        self.add_input(msg["name"], value, Role.DATA)
        with self._aside():
            reach = self._owners[_storage(value)]
        self._mark([value], reach)
        for name in self.names(reach):
            self.nodes[name] = replace(self.nodes[name], plates=self.plates_of(msg))

    def plates_of(self, msg: Any) -> tuple[str, ...]:
        """Names of a site's plates, the outermost first."""
        return tuple(dict.fromkeys(frame.name for frame in self._frames(msg)))

    def _frames(self, msg: Any) -> list[Any]:
        frames = [frame for frame in msg["cond_indep_stack"] if frame.name != PARTICLES]
        frames.sort(key=lambda frame: -100 if frame.dim is None else frame.dim)
        for frame in frames:
            full = frame.size if frame.full_size is None else frame.full_size
            self.plates[frame.name] = Plate(frame.name, frame.size, full)
        return frames

    # -- what was found ----------------------------------------------------------------------

    def names(self, reach: int) -> Iterator[str]:
        """The nodes in a bit set."""
        return (name for name, bit in self.bits.items() if bit & reach and name in self.nodes)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Looking at tensors here tells the programs nothing."""
        paused = self.pause()
        try:
            yield
        finally:
            if paused:
                self.resume()

    def _add(
        self, name: str, kind: Kind, role: Role, plates: tuple[str, ...] = (), parents: int = 0
    ) -> str:
        self.nodes[name] = Node(name, kind, role, plates)
        self.parents[name] = parents
        return name

    def _place(self, name: str, value: Tensor) -> None:
        self._mark([value], self.bit(name))
        self._computed[_view(value)] = name
        self._held.append(value)

    def _carries(self, name: str, value: Tensor) -> int:
        """Mark a value with its node alone."""
        bit = self.bit(name)
        with self._aside():
            self._mark([value], bit)
            self._own(value, bit)
        return bit

    def _own(self, value: Tensor, bit: int) -> None:
        place = _storage(value)
        self._owners[place] = self._owners.get(place, 0) | bit
        self._held.append(value)

    def _free(self, name: str, kind: str) -> str:
        """The name, told apart from those that are taken."""
        taken = self.draws | set(self.nodes)
        name = f"{name} ({kind})" if name in taken else name
        while name in taken:
            name += "'"
        return name


def arguments_of(q: Any) -> Iterator[tuple[str, Tensor, int]]:
    """The tensors that a distribution was given, or made of what it was given.

    Yields:
        The argument's name, the tensor, and how many of its dimensions stand to the right of those
        of the site's batch.
    """
    right = 0
    while True:
        if isinstance(q, Independent):
            right += q.reinterpreted_batch_ndims
        elif isinstance(q, TransformedDistribution):
            right += len(q.base_dist.batch_shape) - len(q.batch_shape)
        elif not isinstance(q, (MaskedDistribution, ExpandedDistribution)):
            break
        q = q.base_dist
    own = getattr(q, "arg_constraints", {})
    names = [name for name in own if isinstance(vars(q).get(name), Tensor)]
    if {"probs", "logits"} <= set(names):  # one of them was computed from the other
        names.remove("logits" if getattr(q, "_param", None) is vars(q)["probs"] else "probs")
    if names or not isinstance(q, Distribution):
        for name in names or [n for n, part in vars(q).items() if isinstance(part, Tensor)]:
            events = getattr(own.get(name), "event_dim", 0)
            yield name.lstrip("_"), vars(q)[name], right + events
        return
    for part in vars(q).values():  # a distribution that stands on another, as Beta does
        if isinstance(part, Distribution):
            extra = len(part.batch_shape) - len(q.batch_shape)
            for name, tensor, events in arguments_of(part):
                yield name, tensor, right + extra + events
            return


def inputs_of(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among a program's arguments, by name; those inside containers by their place."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from inputs_of({f"{name}[{key!r}]": part for key, part in value.items()})
        elif isinstance(value, (tuple, list)):
            yield from inputs_of({f"{name}[{i}]": part for i, part in enumerate(value)})


def _varies(tensor: Tensor, dim: int | None, right: int) -> bool:
    """Whether a tensor differs along a plate's dimension, and is not merely expanded there."""
    if dim is None:
        return True
    place = dim - right
    return tensor.dim() >= -place and tensor.shape[place] > 1 and tensor.stride(place) != 0


def _view(x: Tensor) -> _View:
    """What a tensor shows of its storage: where it starts, and how many elements there are."""
    sizes = [n for n, step in zip(x.shape, x.stride(), strict=True) if step]
    return _storage(x), int(x.storage_offset()), torch.Size(sizes).numel()


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata
