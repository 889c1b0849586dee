"""One or several whole steps as one graph: loss, gradients and the optimizer's update."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.proxy import GraphAppendingTracer, Proxy

from pyro_dsvi.compiled.flat import Flat
from pyro_dsvi.compiled.inputs import Inputs
from pyro_dsvi.compiled.lower import Run
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.recording import Recording


class WholeStep:
    """Some steps in a row, made ready to run.

    Attributes:
        whole: True, since nothing is left to do after it.
        state: the tensors that it writes in place.
        updated: the vectors of parameters.
        flats: the parameters that it updates.

    Args:
        recording: the recording of loss and gradients.
        flats: the parameters that are updated.
        number: how many steps.
        lower: makes a graph ready to run, given inputs like those it will be run with.
    """

    whole = True

    def __init__(
        self,
        recording: Recording,
        flats: Sequence[Flat],
        number: int,
        lower: Callable[[torch.fx.GraphModule, list[Tensor]], Run],
    ) -> None:
        self.number = number
        self.flats = flats
        updated = {id(p) for flat in flats for p in flat.parameters}
        others = [slot for slot in recording.slots if id(slot.tensor) not in updated]
        self._inputs = Inputs(others, recording.parameters, recording.leaves)
        self.state: Sequence[Tensor] = [
            *recording.written,
            *(x for flat in flats for x in flat.tracked),
        ]
        self.updated: Sequence[Tensor] = [flat.vector for flat in flats]
        self._fixed = [x for flat in flats for x in (flat.vector, *flat.state, flat.steps)]
        graph = _graph(recording, flats, number)
        rates = [torch.zeros(number, dtype=torch.float64) for _ in flats]
        self._run = lower(graph, [*rates, *self._fixed, *self._inputs.tensors])

    def holds(self) -> bool:
        """Whether the tensors it was made for are still in place."""
        return self._inputs.hold() and all(flat.holds() for flat in self.flats)

    def keep(self) -> Callable[[], None]:
        """Note what of the optimizers is no tensor; gives a function that puts it back."""
        undo = [flat.keep() for flat in self.flats]

        def put_back() -> None:
            for one in undo:
                one()

        return put_back

    def losses(self, arguments: Sequence[Tensor]) -> Tensor:
        """Take the steps; the loss of each, shape ``[number]``, or a scalar for one step."""
        rates = [flat.advance(self.number) for flat in self.flats]
        return self._run(*rates, *self._fixed, *self._inputs.given(arguments))[0]

    def __call__(self, arguments: Sequence[Tensor]) -> Outcome:
        return Outcome(self.losses(arguments), replayed=True)


def _graph(recording: Recording, flats: Sequence[Flat], number: int) -> torch.fx.GraphModule:
    graph = torch.fx.Graph()
    tracer = GraphAppendingTracer(graph)

    def placeholder(name: str) -> Any:
        return Proxy(graph.placeholder(name), tracer)

    rates = [placeholder(f"rates_{i}") for i in range(len(flats))]
    held = [
        [placeholder(f"flat_{i}_{j}") for j in range(2 + len(flat.state))]
        for i, flat in enumerate(flats)
    ]
    updated = {id(p) for flat in flats for p in flat.parameters}
    others = {
        i: placeholder(f"other_{i}")
        for i, slot in enumerate(recording.slots)
        if id(slot.tensor) not in updated
    }
    losses: list[Any] = []
    values = [list(parts) for parts in held]
    for k in range(number):
        views = {}
        for flat, parts in zip(flats, values, strict=True):
            for p, (start, stop) in zip(flat.parameters, flat.offsets, strict=True):
                views[id(p)] = parts[0][start:stop].view(tuple(p.shape))
        inputs = [
            others[i] if i in others else views[id(slot.tensor)]
            for i, slot in enumerate(recording.slots)
        ]
        loss, *gradients = (Proxy(n, tracer) for n in _copied(recording, graph, inputs))
        losses.append(loss)
        kept = [leaf for leaf, kept in zip(recording.leaves, recording.kept, strict=True) if kept]
        by_leaf = {id(leaf): g for leaf, g in zip(kept, gradients, strict=True)}
        for flat, parts, rate in zip(flats, values, rates, strict=True):
            parts[:] = _updated(flat, parts, by_leaf, rate[k])
    for before, after in zip(held, values, strict=True):
        for old, new in zip(before, after, strict=True):
            torch.ops.aten.copy_.default(old, new)
    loss: Any = torch.stack(losses) if number > 1 else losses[0]
    graph.output((loss.node,))
    graph.eliminate_dead_code()
    return torch.fx.GraphModule(torch.nn.Module(), graph)


def _copied(recording: Recording, graph: torch.fx.Graph, inputs: Sequence[Any]) -> Sequence[Any]:
    """The recorded operations once more, at the end of ``graph``; their outputs."""
    recorded = recording.graph.graph
    placeholders = (node for node in recorded.nodes if node.op == "placeholder")
    known = {node: given.node for node, given in zip(placeholders, inputs, strict=True)}
    outputs: Any = graph.graph_copy(recorded, known)
    return outputs


def _updated(flat: Flat, parts: list[Any], gradients: dict[int, Any], rate: Any) -> list[Any]:
    vector, *state, steps = parts
    steps = steps + 1
    g = torch.cat([gradients[id(p)].reshape(-1) for p in flat.parameters])
    vector, state = flat.update(vector, g, state, steps[0].double(), rate)
    return [vector, *state, steps]
