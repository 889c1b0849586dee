r"""Places for the figures of a picture, layer below layer, in inches.

Every arrow points down: a figure stands one layer below the lowest of those that point to it
(:cite:p:`sugiyama1981layered`).  Each plate has columns of its own, so that its box holds its
figures and no others, whatever the graph; inside them a figure stands near the mean place of its
neighbours.  An arrow past other layers goes through a gap that is kept free for it in each.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pyro_dsvi.graph.picture.graph import Edge

GAP, BETWEEN_LAYERS, AROUND_PLATE = 0.22, 0.62, 0.16
_LANE = 0.12  # the width that is kept free for an arrow
_SWEEPS = 12

Path = tuple[str, ...]
Size = tuple[float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A plate's box: its plates, the outermost first, and its corners."""

    plates: Path
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        centres: the centre of each figure.
        layers: the number of each figure's layer.
        rows: the lower and the upper border of each layer, from the highest on.
        routes: for each arrow where across it passes each of the layers between its ends.
        boxes: the plates' boxes, the outer ones before the inner ones.
    """

    centres: Mapping[str, Point]
    layers: Mapping[str, int]
    rows: Sequence[tuple[float, float]]
    routes: Mapping[Edge, Sequence[float]]
    boxes: Sequence[Box]


@dataclass(eq=False)
class _Place:
    """Something that takes up width in one layer: a figure, or an arrow's gap."""

    layer: int
    plates: Path
    width: float
    x: float = 0.0


def arrange(sizes: Mapping[str, Size], plates: Mapping[str, Path], edges: Sequence[Edge]) -> Layout:
    """Find places.

    Args:
        sizes: width and height of each figure.
        plates: the plates around each, the outermost first.
        edges: the arrows.
    """
    layers = _layers(sizes, edges)
    places = {name: _Place(layers[name], plates[name], sizes[name][0]) for name in sizes}
    routes = {edge: _gaps(places[edge[0]], places[edge[1]]) for edge in edges}
    every = [*places.values(), *(gap for gaps in routes.values() for gap in gaps)]
    beside: dict[_Place, list[_Place]] = defaultdict(list)
    for (v, w), gaps in routes.items():
        chain = [places[v], *gaps, places[w]]
        for a, b in pairwise(chain):
            beside[a].append(b)
            beside[b].append(a)
    columns = _columns(every)
    _settle(every, columns, beside)
    rows = _rows(sizes, layers)
    centres = {name: (place.x, sum(rows[place.layer]) / 2) for name, place in places.items()}
    boxes = _boxes(places, sizes, centres)
    passed = {edge: [gap.x for gap in gaps] for edge, gaps in routes.items()}
    return Layout(centres, layers, rows, passed, boxes)


def _layers(sizes: Mapping[str, Size], edges: Sequence[Edge]) -> dict[str, int]:
    """Below all that points to it; what nothing points to stands just above what it feeds."""
    import networkx

    digraph = networkx.DiGraph()
    digraph.add_nodes_from(sizes)
    digraph.add_edges_from(edges)
    layers: dict[str, int] = {}
    for name in networkx.topological_sort(digraph):
        layers[name] = 1 + max((layers[v] for v in digraph.predecessors(name)), default=-1)
    for name in sizes:
        below = [layers[w] for w in digraph.successors(name)]
        if below and not digraph.in_degree(name):
            layers[name] = min(below) - 1
    return layers


def _gaps(start: _Place, end: _Place) -> list[_Place]:
    """A gap in each layer between the ends of an arrow, inside the plates that both have."""
    shared: Path = ()
    for a, b in zip(start.plates, end.plates, strict=False):
        if a != b:
            break
        shared = (*shared, a)
    return [_Place(layer, shared, _LANE) for layer in range(start.layer + 1, end.layer)]


def _columns(places: Sequence[_Place]) -> dict[Path, tuple[float, float]]:
    """The columns of each plate's own figures: where they start, and their width."""
    width: dict[tuple[Path, int], float] = defaultdict(float)
    for place in places:
        width[place.plates, place.layer] += place.width + GAP
    widest: dict[Path, float] = defaultdict(float)
    for (plates, _), total in width.items():
        widest[plates] = max(widest[plates], total)
    for plates in list(widest):  # a plate may hold nothing but another plate
        for depth in range(len(plates)):
            widest[plates[:depth]] += 0.0
    columns, x, before = {}, 0.0, ()
    for plates in sorted(widest):
        shared = 0
        while shared < min(len(before), len(plates)) and before[shared] == plates[shared]:
            shared += 1
        x += AROUND_PLATE * (len(before) + len(plates) - 2 * shared)
        columns[plates] = (x, widest[plates])
        x, before = x + widest[plates], plates
    return columns


def _settle(
    places: Sequence[_Place],
    columns: Mapping[Path, tuple[float, float]],
    beside: Mapping[_Place, list[_Place]],
) -> None:
    """Move each near its neighbours, in as many sweeps down and up."""
    rows: dict[tuple[int, Path], list[_Place]] = defaultdict(list)
    for place in places:
        rows[place.layer, place.plates].append(place)
    for (_, plates), row in rows.items():
        _spread(row, [0.0] * len(row), *columns[plates])
    order = sorted(rows)
    for sweep in range(_SWEEPS):
        for layer, plates in order if sweep % 2 == 0 else reversed(order):
            row = rows[layer, plates]
            wanted = [_mean([n.x for n in beside[p]], p.x) for p in row]
            pairs = sorted(zip(wanted, range(len(row)), strict=True))
            row[:] = [row[i] for _, i in pairs]
            _spread(row, [want for want, _ in pairs], *columns[plates])


def _spread(row: list[_Place], wanted: list[float], start: float, width: float) -> None:
    """Put a row's places as near to where they want to be as their order and columns allow."""
    left = start
    for place, want in zip(row, wanted, strict=True):
        half = (place.width + GAP) / 2
        place.x = max(want, left + half)
        left = place.x + half
    right = start + width
    for place in reversed(row):
        half = (place.width + GAP) / 2
        place.x = min(place.x, right - half)
        right = place.x - half


def _mean(xs: list[float], default: float) -> float:
    return sum(xs) / len(xs) if xs else default


def _rows(sizes: Mapping[str, Size], layers: Mapping[str, int]) -> list[tuple[float, float]]:
    """The lower and the upper border of each layer; the first is the highest."""
    tallest = [0.0] * (1 + max(layers.values(), default=-1))
    for name, layer in layers.items():
        tallest[layer] = max(tallest[layer], sizes[name][1])
    rows, top = [], 0.0
    for height in tallest:
        rows.append((top - height, top))
        top -= height + BETWEEN_LAYERS
    return rows


def _boxes(
    places: Mapping[str, _Place], sizes: Mapping[str, Size], centres: Mapping[str, Point]
) -> list[Box]:
    """A box around the figures of each plate, wide enough for the boxes inside it."""
    inner = {path[:n] for path in (p.plates for p in places.values()) for n in range(1, 9)}
    boxes = []
    for plates in sorted(path for path in inner if path):
        depth = len(plates)
        members = [name for name, place in places.items() if place.plates[:depth] == plates]
        deeper = max(len(places[name].plates) for name in members) - depth
        around = AROUND_PLATE * (0.6 + deeper)
        boxes.append(
            Box(
                plates,
                min(centres[n][0] - sizes[n][0] / 2 for n in members) - around,
                min(centres[n][1] - sizes[n][1] / 2 for n in members)
                - around
                - 0.12 * (1 + deeper),
                max(centres[n][0] + sizes[n][0] / 2 for n in members) + around,
                max(centres[n][1] + sizes[n][1] / 2 for n in members) + around,
            )
        )
    return boxes
