"""A step recorded as a graph of operations, by running it once under Pyro.

The recorder (``make_fx``, real mode) sees what torch executes beneath Pyro, torch's distributions
and autograd: random draws stay draws, and what is no tensor becomes a constant.  The step that is
recorded is a real one: it draws from the user's random stream, runs each program once, and its
loss and gradients count.

Every tensor that was there before is an input of the graph, by reference: parameters, baselines'
state, what the programs close over, and the step's arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.compiled.draws import functional_draws
from pyro_dsvi.compiled.outcome import Outcome, without_hooks
from pyro_dsvi.compiled.randomness import drawn_outside, outside_torch
from pyro_dsvi.compiled.witness import Witness
from pyro_dsvi.graph.surrogate import Assembled
from pyro_dsvi.passes.freeze import leaves_behind

Assemble = Callable[[], Assembled]
_ALIASES = (
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.lift_fresh.default,
)


class Slot(NamedTuple):
    """Where an input of the graph comes from.

    Attributes:
        tensor: the tensor itself, by reference; for an argument that of the recorded step.
        argument: which of the step's tensor arguments it is, or None.
        baked: whether the program made it from Python's numbers; nobody else knows it then.
    """

    tensor: Tensor
    argument: int | None = None
    baked: bool = False


@dataclass(eq=False)
class Recording:
    """A recorded step.

    Attributes:
        graph: the operations; its outputs are the loss, then the gradients.
        slots: what the graph's placeholders stand for, in order.
        leaves: the parameters, one for each gradient.
        kept: whether each of the leaves has a gradient.
        parameters: the unconstrained parameters that the programs named.
        written: inputs that the step writes in place.
        sites: sample sites in the step.
        objections: why the graph must not be used, in words.
    """

    graph: torch.fx.GraphModule
    slots: list[Slot]
    leaves: Sequence[Tensor]
    kept: Sequence[bool]
    parameters: Mapping[str, Tensor]
    written: list[Tensor] = field(default_factory=list)
    sites: int = 0
    objections: list[str] = field(default_factory=list)


def plain(assemble: Assemble) -> Outcome:
    """Take a step without recording it."""
    witness = Witness()
    with witness.naming():
        assembled = assemble()
    leaves, gradients = _differentiate(assembled)
    return Outcome(-assembled.value.detach(), leaves, gradients, witness.parameters)


def record(assemble: Assemble, arguments: Sequence[Tensor]) -> tuple[Recording, Outcome]:
    """Take a step and record it.

    Args:
        assemble: takes the step, up to the surrogate.
        arguments: the step's tensor arguments, as objects that nothing else refers to.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    witness, before = Witness(), outside_torch()
    outcomes: list[Outcome] = []

    def step() -> list[Tensor]:
        with witness:
            assembled = assemble()
            leaves, gradients = _differentiate(assembled)
            loss = -assembled.value.detach()
        outcomes.append(Outcome(loss, leaves, gradients, witness.parameters))
        return [loss, *(g for g in gradients if g is not None)]

    graph = make_fx(step, tracing_mode="real", decomposition_table=_decompositions())()
    (outcome,) = outcomes
    recording = _lifted(graph, outcome, arguments, witness)
    recording.objections = list(dict.fromkeys(witness.reads))
    generator = drawn_outside(before)
    if generator is not None:
        recording.objections.append(
            f"the program draws from {generator}, which a recording would freeze; "
            "draw by torch, or by pyro.sample"
        )
    return recording, outcome


def _differentiate(assembled: Assembled) -> tuple[list[Tensor], list[Tensor | None]]:
    if not assembled.surrogate.requires_grad:
        return [], []
    leaves = list(leaves_behind([assembled.surrogate]).values())
    with without_hooks(leaves):
        gradients = torch.autograd.grad(-assembled.surrogate, leaves, allow_unused=True)
    return leaves, list(gradients)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Operations whose schema hides that they write in place, by ones that say so."""
    return {torch.ops.aten.native_batch_norm.default: _batch_norm}


def _batch_norm(x, weight, bias, mean, variance, training, momentum, eps):
    if mean is None:
        norm = torch.ops.aten._native_batch_norm_legit.no_stats
        return norm(x, weight, bias, training, momentum, eps)
    norm = torch.ops.aten._native_batch_norm_legit.default
    return norm(x, weight, bias, mean, variance, training, momentum, eps)


def _lifted(
    traced: torch.fx.GraphModule, outcome: Outcome, arguments: Sequence[Tensor], witness: Witness
) -> Recording:
    """Turn the tensors that the recorder holds as constants into inputs."""
    graph, slots = traced.graph, []
    placeholders: dict[int, torch.fx.Node] = {}
    argument_of = {id(tensor): index for index, tensor in enumerate(arguments)}
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        tensor = getattr(traced, node.target, None)
        if not isinstance(tensor, Tensor):
            witness.reads.append(
                "torch is handed an object with a state of its own, such as a torch.Generator, "
                f"{_used(node)}; draw from the default generator"
            )
            _take_out(node)
            continue
        if id(tensor) not in placeholders:
            with graph.inserting_before(_first_after_placeholders(graph)):
                placeholder = graph.placeholder(f"input_{len(slots)}")
            placeholders[id(tensor)] = placeholder
            slots.append(Slot(tensor, argument_of.get(id(tensor))))
        node.replace_all_uses_with(placeholders[id(tensor)])
        graph.erase_node(node)
    _drop_passing_leaves(graph, slots, outcome)
    _own_outputs(graph, outcome)
    _drop_aliases(graph)
    graph.eliminate_dead_code()
    module = functional_draws(torch.fx.GraphModule(torch.nn.Module(), graph))
    storages = {tensor.untyped_storage()._cdata: tensor for tensor, _ in witness.written}
    written = [s.tensor for s in slots if s.tensor.untyped_storage()._cdata in storages]
    kept = [gradient is not None for gradient in outcome.gradients]
    return Recording(
        module,
        slots,
        list(outcome.leaves),
        kept,
        dict(outcome.parameters),
        written,
        witness.sites,
    )


def _first_after_placeholders(graph: torch.fx.Graph) -> torch.fx.Node:
    return next(node for node in graph.nodes if node.op != "placeholder")


def _take_out(node: torch.fx.Node) -> None:
    """Leave nothing in a node's place; the graph is not to be run."""
    for user in list(node.users):
        user.args = torch.fx.map_arg(user.args, lambda x: None if x is node else x)
        user.kwargs = torch.fx.map_arg(user.kwargs, lambda x: None if x is node else x)
    node.graph.erase_node(node)


def _used(node: torch.fx.Node) -> str:
    where = next((user.meta["place"] for user in node.users if "place" in user.meta), None)
    return "in the program" if where is None else f"at {where}"


def _drop_passing_leaves(graph: torch.fx.Graph, slots: Sequence[Slot], outcome: Outcome) -> None:
    """Forget the gradients at leaves that were made in the step itself."""
    lasting = {id(x) for x in (*(slot.tensor for slot in slots), *outcome.parameters.values())}
    (output,) = (node for node in graph.nodes if node.op == "output")
    nodes: Any = iter(output.args[0])
    kept, leaves, gradients = [next(nodes)], [], []
    for leaf, gradient in zip(outcome.leaves, outcome.gradients, strict=True):
        node = None if gradient is None else next(nodes)
        if id(leaf) in lasting:
            leaves.append(leaf)
            gradients.append(gradient)
            kept += [] if node is None else [node]
    output.args = (kept,)
    outcome.leaves, outcome.gradients = leaves, gradients


def _own_outputs(graph: torch.fx.Graph, outcome: Outcome) -> None:
    """Give each output memory of its own, so that a gradient may be changed in place."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    results = [outcome.loss, *(g for g in outcome.gradients if g is not None)]
    nodes, seen = [], set()
    for node, result in zip(output.args[0], results, strict=True):
        storage = result.untyped_storage()
        alone = storage.nbytes() == result.numel() * result.element_size()
        if node.op == "placeholder" or not alone or storage._cdata in seen:
            with graph.inserting_before(output):
                contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
                node = graph.call_function(torch.ops.aten.clone.default, (node,), contiguous)
        seen.add(storage._cdata)
        nodes.append(node)
    output.args = (nodes,)


def _drop_aliases(graph: torch.fx.Graph) -> None:
    """Without autograd a detached tensor is the tensor itself."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _ALIASES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
