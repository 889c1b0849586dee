"""Draws as functions: a fresh tensor filled in place is the same draw as one call.

``empty`` followed by ``normal_`` costs inductor a copy and a kernel; ``randn`` costs neither, and
takes the same numbers from the random stream.
"""

import torch

_ATEN = torch.ops.aten
_FILLS = {
    _ATEN.normal_.default: (_ATEN.randn.default, ((), (0,), (0, 1))),
    _ATEN.uniform_.default: (_ATEN.rand.default, ((), (0,), (0, 1))),
}


def functional_draws(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Put ``randn`` and ``rand`` in the place of standard draws in place, in a graph of ours."""
    for node in list(graph.graph.nodes):
        function, standard = _FILLS.get(node.target, (None, ()))
        if function is None or node.args[1:] not in standard or node.kwargs:
            continue
        empty = node.args[0]
        if empty.target is not _ATEN.empty.memory_format or len(empty.users) != 1:
            continue
        kept = ("dtype", "device", "pin_memory")
        options = {key: value for key, value in empty.kwargs.items() if key in kept}
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_function(function, (empty.args[0],), options)
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)
        graph.graph.erase_node(empty)
    graph.recompile()
    return graph
