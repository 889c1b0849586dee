"""What each node looks like, whoever draws it: its shape, its words, its colour.

Shapes tell the kinds apart and words the estimators, so that a picture needs no colours; these are
Okabe's and Ito's, which the colour-blind tell apart.  Parameters of one module that feed the same
nodes are drawn as one.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from pyro_dsvi.graph.picture.graph import Edge, Graph
from pyro_dsvi.graph.picture.node import Kind, Node, Role

WHITE, GREY = "#FFFFFF", "#D9D9D9"
# Light enough for black words on them, and of different lightness.
_COLOURS = ("#9AD0F5", "#E69F00", "#56C2A0", "#F7EE90", "#D98CB3", "#E8865A", "#B9B4E0")
_FIRST = ("Pathwise", "ScoreFunction", "Enumerate")  # these always have the same

LEGEND = (
    (Kind.INPUT, Role.MODEL, "parameter"),
    (Kind.INPUT, Role.DATA, "data"),
    (Kind.DETERMINISTIC, Role.MODEL, "computed"),
    (Kind.STOCHASTIC, Role.GUIDE, "drawn"),
    (Kind.COST, Role.MODEL, "cost"),
)


@dataclass(frozen=True)
class Figure:
    """One figure in the picture.

    Attributes:
        name: the name by which edges refer to it.
        kind: tells its shape.
        lines: the words in it.
        fill: its colour.
        plates: the plates around it, the outermost first.
    """

    name: str
    kind: Kind
    lines: tuple[str, ...]
    fill: str
    plates: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """A picture without places.

    Attributes:
        figures: its figures, by name.
        edges: its arrows.
        plates: the words on each plate's box.
        colours: the colour of each estimator.
        title: the words above.
    """

    figures: Mapping[str, Figure]
    edges: tuple[Edge, ...]
    plates: Mapping[str, str]
    colours: Mapping[str, str]
    title: str


def look_of(graph: Graph, variance: Mapping[str, float]) -> Look:
    """What a graph looks like.

    Args:
        graph: the graph.
        variance: gradient variance by site, to be written there.
    """
    colours = _colours(graph)
    merged = _merged(graph)
    figures = {}
    for name, node in graph.nodes.items():
        if merged.get(name, name) == name:
            members = [other for other, into in merged.items() if into == name]
            lines = _lines(node, members, variance)
            fill = colours.get(type(node.estimator).__name__, fill_of(node.kind, node.role))
            figures[name] = Figure(name, node.kind, lines, fill, node.plates)
    edges = dict.fromkeys((merged.get(v, v), w) for v, w in graph.edges)
    plates = {name: str(plate) for name, plate in graph.plates.items()}
    return Look(figures, tuple(edges), plates, colours, graph.title)


def fill_of(kind: Kind, role: Role) -> str:
    """The colour of what has no estimator: data are grey, as observed values are everywhere."""
    return GREY if kind is Kind.INPUT and role is Role.DATA else WHITE


def _lines(node: Node, members: list[str], variance: Mapping[str, float]) -> tuple[str, ...]:
    if node.kind is Kind.COST and node.name.startswith("log q("):
        return (f"−{node.name}",)
    if len(members) > 1:
        stem = _common_module(members)
        ends = [member.removeprefix(f"{stem}.") for member in members]
        listed = ", ".join(ends) if len(ends) <= 2 else f"{len(ends)} tensors"
        return stem, listed
    lines = [node.name]
    if node.estimator is not None:
        lines.append(type(node.estimator).__name__)
    if node.name in variance:
        lines.append(f"variance {variance[node.name]:.3g}")
    return tuple(lines)


def _common_module(names: list[str]) -> str:
    """The module that all the parameters belong to, as far down as it goes."""
    parts = [name.split(".")[:-1] for name in names]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in levels)


def _colours(graph: Graph) -> dict[str, str]:
    present = {type(estimator).__name__ for estimator in graph.estimators.values()}
    usual = dict(zip(_FIRST, _COLOURS, strict=False))
    others = sorted(present - set(usual))
    rest = _COLOURS[len(_FIRST) :]
    colours = {name: colour for name, colour in usual.items() if name in present}
    return colours | {name: rest[i % len(rest)] for i, name in enumerate(others)}


def _merged(graph: Graph) -> dict[str, str]:
    """For each parameter of a module that feeds the same nodes as others, the first of them."""
    children: dict[str, set[str]] = defaultdict(set)
    for v, w in graph.edges:
        children[v].add(w)
    groups: dict[tuple[str, Role, frozenset[str]], list[str]] = defaultdict(list)
    for node in graph.of_kind(Kind.INPUT):
        module = node.name.partition(".")[0]
        if node.role is not Role.DATA and module != node.name:
            groups[module, node.role, frozenset(children[node.name])].append(node.name)
    return {name: names[0] for names in groups.values() for name in names if len(names) > 1}
