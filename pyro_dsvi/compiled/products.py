r"""Large matrix products of a recorded graph, each by the library that is faster here.

torch's product of float32 matrices is that of the BLAS library it was built with; oneDNN, which
torch has on board as well, is up to twice as fast on some processors, and slower on others.
Inductor takes oneDNN only for weights that do not change.  So each large ``aten.mm`` and
``aten.addmm`` on the CPU is timed both ways, on operands of its own shapes and strides, and gets
oneDNN's where that wins by more than what timing leaves open.

The two round differently: results agree to float32 tolerance, not to the last bit.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

Operation: TypeAlias = Callable[..., Tensor]
Seconds: TypeAlias = Callable[[Sequence[Operation], Sequence[Tensor]], Sequence[float]]

# Below this, a product takes about as long as a call from Python.
_LARGE = 4e6  # floating-point operations
_WIN = 0.9  # of the other's time
_ROUNDS = 7
_ROUND = 1e-3  # seconds, at least


def seconds(operations: Sequence[Operation], operands: Sequence[Tensor]) -> list[float]:
    """Shortest time of each operation on the operands, taken in turns.

    The shortest of several, and this thread's own time, since a busy machine only ever makes a
    run longer.
    """
    for operation in operations:  # set up whatever is set up once
        operation(*operands)
    repeats = max(1, round(_ROUND / _lap(operations[0], operands, 1)))
    best = [float("inf")] * len(operations)
    for _ in range(_ROUNDS):
        laps = [_lap(operation, operands, repeats) for operation in operations]
        best = [min(pair) for pair in zip(best, laps, strict=True)]
    return best


def _lap(operation: Operation, operands: Sequence[Tensor], repeats: int) -> float:
    start = time.thread_time()
    for _ in range(repeats):
        operation(*operands)
    return (time.thread_time() - start) / repeats


def with_faster_products(graph: GraphModule, *, seconds: Seconds = seconds) -> GraphModule:
    """Put oneDNN's products in the place of large ones in which they are faster.

    Only float32 on the CPU is looked at.  Other products stay as they are, and so does the whole
    graph where torch was built without oneDNN, or it is switched off (``torch.backends.mkldnn``).

    Args:
        graph: a recorded graph, whose nodes know their values' shapes (``meta["val"]``).
        seconds: how long each of some operations takes on given operands.

    Returns:
        The graph itself if nothing was replaced, else another one.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return graph
    verdicts: dict[Any, bool] = {}
    chosen: list[Node] = []
    for node in graph.graph.nodes:
        values = _large_operands(node)
        if values is None:
            continue
        key = (node.target, *((tuple(v.shape), v.stride()) for v in values))
        if key not in verdicts:
            verdicts[key] = _wins(node.target, values, seconds)
        if verdicts[key]:
            chosen.append(node)
    return _replaced(graph, chosen) if chosen else graph


def _large_operands(node: Node) -> list[Tensor] | None:
    """What a product's operands look like, if it is one that oneDNN could take over."""
    if node.target not in _COUNTERPART or node.kwargs:  # with alpha or beta, or into an output
        return None
    values = [arg.meta.get("val") for arg in node.args if isinstance(arg, Node)]
    values = [value for value in values if isinstance(value, Tensor) and _is_servable(value)]
    if len(values) < len(node.args):
        return None
    *bias, a, b = values
    if any(offset.shape != b.shape[1:] for offset in bias):
        return None
    return values if 2.0 * a.shape[0] * b.numel() >= _LARGE else None


def _is_servable(value: Tensor) -> bool:
    kind = (value.device.type, value.dtype, value.layout)
    return kind == ("cpu", torch.float32, torch.strided)


def _wins(target: Any, values: Sequence[Tensor], seconds: Seconds) -> bool:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        by_blas, by_onednn = seconds([target, _COUNTERPART[target]], [_like(v) for v in values])
    return by_onednn < _WIN * by_blas


def _like(value: Tensor) -> Tensor:
    """Random numbers with the shape and the strides of a tensor, overlapping where it does."""
    strides = zip(value.shape, value.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in strides)
    return torch.randn(extent, dtype=value.dtype, device="cpu").as_strided(
        value.shape, value.stride()
    )


def _replaced(graph: GraphModule, chosen: Sequence[Node]) -> GraphModule:
    nodes = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    nodes.output(nodes.graph_copy(graph.graph, copies))
    for node in chosen:
        copies[node].target = _COUNTERPART[node.target]
    nodes.lint()
    return GraphModule(graph, nodes)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")


def _product_and_bias(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), bias, "none", [], "")


# Operators of our own, since inductor compiles oneDNN's only for a weight that is a constant.
torch.library.define("dsvi::mm", "(Tensor a, Tensor b) -> Tensor")
torch.library.define("dsvi::addmm", "(Tensor bias, Tensor a, Tensor b) -> Tensor")
torch.library.impl("dsvi::mm", "CPU", _product)
torch.library.impl("dsvi::addmm", "CPU", _product_and_bias)
torch.library.register_fake("dsvi::mm", lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
torch.library.register_fake("dsvi::addmm", lambda bias, a, b: a.new_empty(a.shape[0], b.shape[1]))

_COUNTERPART: dict[Any, Any] = {
    torch.ops.aten.mm.default: torch.ops.dsvi.mm.default,
    torch.ops.aten.addmm.default: torch.ops.dsvi.addmm.default,
}
