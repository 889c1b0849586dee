"""The way of each arrow: straight down past figures, and across in the free space between layers.

So no arrow crosses a figure.  Arrows that leave or enter the same figure do so side by side, in the
order of where they come from or go to.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pyro_dsvi.graph.picture.graph import Edge
from pyro_dsvi.graph.picture.layers import Layout, Point, Size
from pyro_dsvi.graph.picture.node import Kind

# A straight line, or a curve with two control points, to the last point.
Step = tuple[Point, ...]
_NOTHING = 1e-6
_SPREAD = 0.5  # share of a figure's width that its arrows take up


def wires(
    edges: Sequence[Edge], layout: Layout, sizes: Mapping[str, Size], kinds: Mapping[str, Kind]
) -> dict[Edge, tuple[Point, list[Step]]]:
    """Where each arrow starts, and the steps that it takes.

    Args:
        edges: the arrows.
        layout: where everything stands.
        sizes: width and height of each figure.
        kinds: the kind of each figure, which tells its shape.
    """
    leave = _ports(edges, layout, sizes, start=True)
    enter = _ports(edges, layout, sizes, start=False)
    found = {}
    for edge in edges:
        v, w = edge
        first = _on_border(layout, sizes, kinds, v, leave[edge], -1)
        last = _on_border(layout, sizes, kinds, w, enter[edge], 1)
        xs = [first[0], *layout.routes[edge], last[0]]
        found[edge] = first, _steps(xs, layout, layout.layers[v], last)
    return found


def _ports(
    edges: Sequence[Edge], layout: Layout, sizes: Mapping[str, Size], *, start: bool
) -> dict[Edge, float]:
    """How far from the centre of a figure each of its arrows leaves or enters it."""
    of: dict[str, list[tuple[float, Edge]]] = defaultdict(list)
    for v, w in edges:
        lane = layout.routes[v, w]
        here, other, nearest = (v, w, 0) if start else (w, v, -1)
        of[here].append((lane[nearest] if lane else layout.centres[other][0], (v, w)))
    ports = {}
    for name, pairs in of.items():
        room = sizes[name][0] * _SPREAD
        for i, (_, edge) in enumerate(sorted(pairs)):
            ports[edge] = room * ((i + 0.5) / len(pairs) - 0.5)
    return ports


def _on_border(
    layout: Layout,
    sizes: Mapping[str, Size],
    kinds: Mapping[str, Kind],
    name: str,
    offset: float,
    sign: int,
) -> Point:
    """The point of a figure's upper or lower border at a distance from its middle."""
    (x, y), (width, height) = layout.centres[name], sizes[name]
    share = abs(2 * offset / width)
    if kinds[name] is Kind.STOCHASTIC:
        rise = (1 - share**2) ** 0.5
    elif kinds[name] is Kind.COST:
        rise = 1 - share
    else:
        rise = 1.0
    return x + offset, y + sign * rise * height / 2


def _steps(xs: Sequence[float], layout: Layout, layer: int, last: Point) -> list[Step]:
    steps: list[Step] = []
    for before, after in pairwise(xs):
        bottom, top = layout.rows[layer][0], layout.rows[layer + 1][1]
        middle = (bottom + top) / 2
        steps.append(((before, bottom),))
        steps.append(((before, middle), (after, middle), (after, top)))
        layer += 1
    reached = abs(last[1] - steps[-1][-1][1]) < _NOTHING  # else matplotlib draws no head
    return steps if reached else [*steps, (last,)]
