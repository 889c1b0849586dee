"""Nodes, influence, credit and the surrogate: the stochastic computation graph of a step.

``trace_graph`` is the public way to it.  It runs programs under an objective, which this room knows
nothing of, and so stands in a later one; here is only the door, which opens when someone asks.
"""

from typing import TYPE_CHECKING, Any

from pyro_dsvi.graph.picture.graph import Graph
from pyro_dsvi.graph.picture.node import Kind, Node, Role

if TYPE_CHECKING:
    from pyro_dsvi.diagnostics.trace_graph import trace_graph

__all__ = ["Graph", "Kind", "Node", "Role", "trace_graph"]


def __getattr__(name: str) -> Any:
    if name == "trace_graph":
        from pyro_dsvi.diagnostics.trace_graph import trace_graph

        return trace_graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
