"""The graph drawn by matplotlib, for want of graphviz."""

import io
from typing import Any

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.graph.picture.layers import Layout, Point, Size, arrange
from pyro_dsvi.graph.picture.look import LEGEND, Figure, Look, fill_of
from pyro_dsvi.graph.picture.node import Kind
from pyro_dsvi.graph.picture.wires import wires

_FONT, _SMALL = 9.0, 7.5
_LINE = 0.16  # inches from one line of words to the next
_MARGIN = 0.25
_WIDEST_CIRCLE = 1.2
_INK = "#303030"


def draw(look: Look, kind: str) -> bytes:
    """The picture.

    Args:
        look: what is to be drawn.
        kind: the file's kind: svg, png or pdf.

    Raises:
        InvalidArgument: if matplotlib or networkx is not installed.
    """
    sizes = {name: _size(figure) for name, figure in look.figures.items()}
    plates = {name: figure.plates for name, figure in look.figures.items()}
    try:
        from matplotlib.figure import Figure as Canvas

        layout = arrange(sizes, plates, look.edges)
    except ImportError as error:
        raise InvalidArgument(
            "render: neither graphviz, nor networkx and matplotlib are installed; get them by "
            "`pip install 'pyro-dsvi[graph]'`"
        ) from error
    left, bottom, right, top = _extent(layout, sizes)
    legend = _LINE * 3 + 0.1
    width = max(right - left + 2 * _MARGIN, _legend_width(look) + 2 * _MARGIN)
    height = top - bottom + 2 * _MARGIN + legend
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    centre = (left + right) / 2
    axes.set_xlim(centre - width / 2, centre + width / 2)
    axes.set_ylim(bottom - _MARGIN - legend, top + _MARGIN)
    axes.axis("off")
    _draw_plates(axes, look, layout)
    _draw_edges(axes, look, layout, sizes)
    for name, figure in look.figures.items():
        _draw_figure(axes, figure, layout.centres[name], sizes[name])
    _draw_legend(axes, look, centre, bottom - _MARGIN)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()


def _size(figure: Figure) -> Size:
    """Width and height of a figure around its words, in inches."""
    first, *rest = figure.lines
    width = max(_width(first, _FONT), *(_width(line, _SMALL) for line in rest), 0.3)
    height = _LINE * len(figure.lines)
    if figure.kind is Kind.COST:
        return 1.55 * width + 0.1, 2.7 * height + 0.1
    if figure.kind is Kind.STOCHASTIC:
        across = (width**2 + height**2) ** 0.5 + 0.08
        if across <= _WIDEST_CIRCLE:
            return across, across
        return 1.3 * width + 0.12, max(1.5 * height + 0.16, 0.6)
    return width + 0.2, height + 0.16


def _width(line: str, points: float) -> float:
    return 0.62 * points / 72 * len(line)


def _extent(layout: Layout, sizes: dict[str, Size]) -> tuple[float, float, float, float]:
    lefts = [x - sizes[n][0] / 2 for n, (x, _) in layout.centres.items()]
    rights = [x + sizes[n][0] / 2 for n, (x, _) in layout.centres.items()]
    lows = [y - sizes[n][1] / 2 for n, (_, y) in layout.centres.items()]
    highs = [y + sizes[n][1] / 2 for n, (_, y) in layout.centres.items()]
    lanes = [x for route in layout.routes.values() for x in route]
    lefts += lanes
    rights += lanes
    for box in layout.boxes:
        lefts.append(box.left)
        rights.append(box.right)
        lows.append(box.bottom)
        highs.append(box.top)
    return min(lefts), min(lows), max(rights), max(highs)


def _draw_figure(axes: Any, figure: Figure, centre: Point, size: Size) -> None:
    axes.add_patch(_patch(figure.kind, centre, size, figure.fill))
    (x, y), n = centre, len(figure.lines)
    for i, line in enumerate(figure.lines):
        axes.text(
            x,
            y + _LINE * ((n - 1) / 2 - i),
            line,
            fontsize=_SMALL if i else _FONT,
            ha="center",
            va="center_baseline",
            parse_math=False,
            zorder=4,
        )


def _patch(kind: Kind, centre: Point, size: Size, fill: str) -> Any:
    from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon, Rectangle

    (x, y), (wide, tall) = centre, size
    drawn = {"facecolor": fill, "edgecolor": _INK, "linewidth": 1.0, "zorder": 3}
    corner = (x - wide / 2, y - tall / 2)
    if kind is Kind.STOCHASTIC:
        return Ellipse(centre, wide, tall, **drawn)
    if kind is Kind.COST:
        points = [(x - wide / 2, y), (x, y + tall / 2), (x + wide / 2, y), (x, y - tall / 2)]
        return Polygon(points, closed=True, **drawn)
    if kind is Kind.INPUT:
        style = f"round,pad=0,rounding_size={min(0.1, 0.4 * tall):.3f}"
        return FancyBboxPatch(corner, wide, tall, boxstyle=style, **drawn)
    return Rectangle(corner, wide, tall, **drawn)


def _draw_plates(axes: Any, look: Look, layout: Layout) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.08"
    for box in layout.boxes:
        corner, size = (box.left, box.bottom), (box.right - box.left, box.top - box.bottom)
        drawn = {"facecolor": "none", "edgecolor": _INK, "linewidth": 0.9, "zorder": 1}
        axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **drawn))
        axes.text(
            box.right - 0.06,
            box.bottom + 0.04,
            look.plates[box.plates[-1]],
            fontsize=_SMALL,
            ha="right",
            va="bottom",
            parse_math=False,
            zorder=4,
        )


def _draw_edges(axes: Any, look: Look, layout: Layout, sizes: dict[str, Size]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    kinds = {name: figure.kind for name, figure in look.figures.items()}
    for start, steps in wires(look.edges, layout, sizes, kinds).values():
        points, codes = [start], [Path.MOVETO]
        for step in steps:
            points += step
            codes += [Path.LINETO] if len(step) == 1 else [Path.CURVE4] * 3
        drawn = {"mutation_scale": 8, "linewidth": 0.8, "color": _INK, "zorder": 2}
        axes.add_patch(FancyArrowPatch(path=Path(points, codes), arrowstyle="-|>", **drawn))


def _entries(look: Look) -> list[tuple[Kind, str, str]]:
    shapes = [(kind, fill_of(kind, role), words) for kind, role, words in LEGEND]
    return shapes + [(Kind.STOCHASTIC, colour, name) for name, colour in look.colours.items()]


def _legend_width(look: Look) -> float:
    return sum(0.55 + _width(words, _SMALL) for _, _, words in _entries(look))


def _draw_legend(axes: Any, look: Look, centre: float, top: float) -> None:
    words = {"fontsize": _SMALL, "va": "center", "parse_math": False}
    if look.title:
        axes.text(centre, top - 0.1, look.title, ha="center", **words)
    x, y = centre - _legend_width(look) / 2, top - 0.36
    for kind, fill, label in _entries(look):
        axes.add_patch(_patch(kind, (x + 0.15, y), (0.26, 0.18), fill))
        axes.text(x + 0.35, y, label, ha="left", **words)
        x += 0.55 + _width(label, _SMALL)
