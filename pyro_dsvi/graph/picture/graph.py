r"""The stochastic computation graph as an object that answers questions.

With edges from what a node is computed from, or drawn from, to the node:

- :math:`v \prec w`, *v influences w*, if a path leads from v to w;
- :math:`v \prec^D w`, *v influences w deterministically*, if all nodes between the two on some such
  path are deterministic: a draw in between cuts it;
- :math:`\mathrm{DEPS}_w = \{v \in \Theta \cup \mathcal S : v \prec^D w\}`, the inputs and draws on
  which w depends;
- :math:`\hat Q_w`, the sum of the costs that w must answer for.

References:
    :cite:p:`schulman2015scg`
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from pyro_dsvi.errors import UnknownNode
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.picture.node import Kind, Node, Plate

Edge = tuple[str, str]


class Graph:
    """A stochastic computation graph: what influences what, and who answers for which cost.

    Names are looked up as they are in :attr:`nodes`; ``x.loc`` will do for ``p(x).loc``, and an
    observed site for its cost ``log p(x)``, where only one node can be meant.

    Args:
        nodes: the nodes, in the order in which the programs reach them.
        edges: pairs of names, from a node to what is computed or drawn from it.
        downstream_costs: the costs that each draw answers for.
        plates: the plates.
        title: the objective whose graph it is, in words.

    Raises:
        UnknownNode: from every question about a name that is not in the graph.

    References:
        :cite:p:`schulman2015scg`
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        edges: Iterable[Edge],
        downstream_costs: Mapping[str, Iterable[str]],
        *,
        plates: Iterable[Plate] = (),
        title: str = "",
    ) -> None:
        self.nodes: Mapping[str, Node] = {node.name: node for node in nodes}
        self._order = {name: place for place, name in enumerate(self.nodes)}
        self._credits = {site: frozenset(costs) for site, costs in downstream_costs.items()}
        self.plates: Mapping[str, Plate] = {plate.name: plate for plate in plates}
        self.title = title
        self.edges: tuple[Edge, ...] = tuple(sorted(set(edges), key=self._places))

    # -- questions ---------------------------------------------------------------------------

    def upstream(self, name: str) -> tuple[str, ...]:
        r"""All v with :math:`v \prec` ``name``."""
        return self._reached(self[name].name, self._parents)

    def downstream(self, name: str) -> tuple[str, ...]:
        r"""All w with ``name`` :math:`\prec w`."""
        return self._reached(self[name].name, self._children)

    def deps(self, name: str) -> tuple[str, ...]:
        r"""The inputs and draws v with :math:`v \prec^D` ``name``."""
        upstream = self._reached(self[name].name, self._parents, cut=True)
        kinds = (Kind.INPUT, Kind.STOCHASTIC)
        return tuple(v for v in upstream if self.nodes[v].kind in kinds)

    def influences(self, v: str, w: str) -> bool:
        r"""Whether :math:`v \prec w`."""
        return self[w].name in self.downstream(v)

    def influences_deterministically(self, v: str, w: str) -> bool:
        r"""Whether :math:`v \prec^D w`."""
        return self[w].name in self._reached(self[v].name, self._children, cut=True)

    def downstream_costs(self, site: str) -> tuple[str, ...]:
        r"""The costs of :math:`\hat Q`: those that a draw of the site must answer for.

        Under an additive bound these are the costs that the site influences; under any other, all
        costs that stand under one bound with them.

        Raises:
            UnknownNode: if there is no such site, or nothing is drawn there.
        """
        name = self[site].name
        if name not in self._credits:
            raise UnknownNode(
                f"{name!r} is no draw of the guide; the draws are {sorted(self._credits)}"
            )
        return self._sorted(self._credits[name])

    @property
    def estimators(self) -> dict[str, Estimator]:
        """The estimator of each site that the guide draws."""
        return {n: x.estimator for n, x in self.nodes.items() if x.estimator is not None}

    def of_kind(self, kind: Kind) -> tuple[Node, ...]:
        """The nodes of one kind."""
        return tuple(node for node in self.nodes.values() if node.kind is kind)

    def __getitem__(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes.get(self._aliases.get(name, ""))
        if node is None:
            near = difflib.get_close_matches(name, self.nodes, 3, 0.5)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see graph.nodes"
            raise UnknownNode(f"the graph has no node {name!r}; {hint}")
        return node

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.nodes or name in self._aliases)

    # -- to be looked at -----------------------------------------------------------------------

    def render(self, path: Any = None, *, variance: Any = None, engine: str | None = None) -> bytes:
        """Draw the graph: circles are drawn, squares computed, diamonds are costs, boxes plates.

        Args:
            path: file to write, whose ending says what: ``.svg``, ``.png``, ``.pdf``, and ``.gv``
                or ``.dot`` for graphviz's own text.  None: nothing is written, the format is svg.
            variance: gradient variance by site, to be written beside the site: a mapping, or
                anything that has one as ``variance_by_site``.
            engine: ``"graphviz"`` or ``"matplotlib"``.  None: graphviz if it is installed, else
                matplotlib, which is said by a warning.

        Returns:
            What is in the file.

        Raises:
            InvalidArgument: if the ending or the engine is not known, or what the engine needs is
                not installed.
        """
        from pyro_dsvi.graph.picture.render import render

        return render(self, path, variance, engine)

    def _repr_svg_(self) -> str:
        return self.render().decode()

    def __str__(self) -> str:
        lines = [self.title] if self.title else []
        for kind in Kind:
            for node in self.of_kind(kind):
                lines.append(f"{kind.value:13}  {self._line(node)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of_kind(kind))} {kind.value}" for kind in Kind)
        return f"<Graph: {counts}; {len(self.edges)} edges>"

    def _line(self, node: Node) -> str:
        parts = [node.name]
        if node.plates:
            parts.append(f"in {', '.join(node.plates)}")
        if self._parents[node.name]:
            parts.append(f"from {', '.join(self._sorted(self._parents[node.name]))}")
        if node.estimator is not None:
            parts.append(f"by {type(node.estimator).__name__}")
        if node.name in self._credits:
            parts.append(f"answers for {', '.join(self.downstream_costs(node.name)) or 'nothing'}")
        return "  ".join(parts)

    # -- paths -------------------------------------------------------------------------------

    @cached_property
    def _parents(self) -> Mapping[str, set[str]]:
        parents: dict[str, set[str]] = defaultdict(set)
        for v, w in self.edges:
            parents[w].add(v)
        return parents

    @cached_property
    def _children(self) -> Mapping[str, set[str]]:
        children: dict[str, set[str]] = defaultdict(set)
        for v, w in self.edges:
            children[v].add(w)
        return children

    def _reached(
        self, start: str, step: Mapping[str, set[str]], *, cut: bool = False
    ) -> tuple[str, ...]:
        """What paths from a node lead to; if they are cut, no further than the first draw."""
        pending, found = list(step.get(start, ())), set()
        while pending:
            name = pending.pop()
            if name in found:
                continue
            found.add(name)
            if not cut or self.nodes[name].kind is Kind.DETERMINISTIC:
                pending.extend(step.get(name, ()))
        return self._sorted(found)

    @cached_property
    def _aliases(self) -> Mapping[str, str]:
        """Shorter names, where one node alone can be meant."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for name, node in self.nodes.items():
            if name.startswith(("p(", "q(")) and ")." in name:
                site, _, argument = name[2:].rpartition(").")
                wanted[f"{site}.{argument}"].add(name)
            if node.kind is Kind.COST and name.startswith("log p("):
                wanted[name[len("log p(") : -1]].add(name)
        return {
            alias: names.pop()
            for alias, names in wanted.items()
            if len(names) == 1 and alias not in self.nodes
        }

    def _sorted(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=self._order.__getitem__))

    def _places(self, edge: Edge) -> tuple[int, int]:
        return self._order[edge[0]], self._order[edge[1]]
