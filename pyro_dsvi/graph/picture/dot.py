"""The graph in graphviz's language, and drawn by graphviz."""

from html import escape
from typing import Any

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.graph.picture.look import LEGEND, Figure, Look, fill_of
from pyro_dsvi.graph.picture.node import Kind

_SHAPES = {Kind.INPUT: "box", Kind.DETERMINISTIC: "box", Kind.COST: "diamond"}
_SIGNS = {Kind.DETERMINISTIC: "□", Kind.STOCHASTIC: "○", Kind.COST: "◇"}
_LONGEST_IN_A_CIRCLE = 14
_FONT = "Helvetica"
_SMALL = "10"


def source(look: Look) -> str:
    """The graph in graphviz's language.

    Raises:
        InvalidArgument: if its Python package is not installed.
    """
    return _digraph(look).source


def draw(look: Look, kind: str) -> bytes:
    """The picture.

    Args:
        look: what is to be drawn.
        kind: the file's kind: svg, png or pdf.

    Raises:
        InvalidArgument: if graphviz, or its Python package, is not installed.
    """
    digraph = _digraph(look)
    from graphviz import ExecutableNotFound

    try:
        return digraph.pipe(format=kind)
    except ExecutableNotFound as error:
        raise InvalidArgument(
            "render: graphviz's program dot is not installed; get it by `apt-get install "
            "graphviz`, `brew install graphviz` or `conda install graphviz`"
        ) from error


def _digraph(look: Look) -> Any:
    try:
        from graphviz import Digraph
    except ImportError as error:
        raise InvalidArgument(
            "render: the Python package graphviz is not installed; get it by "
            "`pip install 'pyro-dsvi[graph]'`"
        ) from error
    digraph = Digraph(
        graph_attr={
            "label": _legend(look),
            "labelloc": "b",
            "fontname": _FONT,
            "nodesep": "0.3",
            "ranksep": "0.4",
            "dpi": "110",
        },
        node_attr={"fontname": _FONT, "fontsize": "12", "style": "filled", "margin": "0.06,0.04"},
        edge_attr={"arrowsize": "0.7", "color": "#404040"},
    )
    ids = {name: f"n{i}" for i, name in enumerate(look.figures)}
    _add(digraph, look, ids, ())
    for v, w in look.edges:
        digraph.edge(ids[v], ids[w])
    return digraph


def _add(parent: Any, look: Look, ids: dict[str, str], inside: tuple[str, ...]) -> None:
    """Add the figures inside these plates and no others, and a box for each further plate."""
    depth = len(inside)
    further: dict[str, None] = {}
    for name, figure in look.figures.items():
        if figure.plates == inside:
            parent.node(ids[name], **_attributes(figure))
        elif figure.plates[:depth] == inside:
            further[figure.plates[depth]] = None
    for plate in further:
        name = "cluster_" + "_".join(map(str, map(list(look.plates).index, (*inside, plate))))
        with parent.subgraph(name=name) as box:
            box.attr(
                label=_quoted(look.plates[plate]), labeljust="r", labelloc="b", fontsize=_SMALL
            )
            box.attr(style="rounded", color="#404040", margin="12")
            _add(box, look, ids, (*inside, plate))


def _attributes(figure: Figure) -> dict[str, str]:
    longest = max(map(len, figure.lines))
    shape = _SHAPES.get(figure.kind, "circle" if longest <= _LONGEST_IN_A_CIRCLE else "ellipse")
    label = "".join(f"{escape(line)}<BR/>" for line in figure.lines[:1])
    label += "".join(
        f'<FONT POINT-SIZE="{_SMALL}">{escape(line)}</FONT><BR/>' for line in figure.lines[1:]
    )
    rounded = "rounded,filled" if figure.kind is Kind.INPUT else "filled"
    margin = {"circle": "0", "diamond": "0.05,0.02"}.get(shape, "0.08,0.05")
    return {
        "label": f"<{label.removesuffix('<BR/>')}>",
        "shape": shape,
        "style": rounded,
        "fillcolor": figure.fill,
        "margin": margin,
    }


def _legend(look: Look) -> str:
    """A table below the picture, which takes no part in its layout."""
    cells = []
    for kind, role, words in LEGEND:
        if kind in _SIGNS:
            cells.append(f"<TD>{_SIGNS[kind]} {words}</TD>")
        else:
            fill = fill_of(kind, role)
            cells.append(
                f'<TD STYLE="ROUNDED" BORDER="1" BGCOLOR="{fill}" CELLPADDING="3">{words}</TD>'
            )
    for estimator, colour in look.colours.items():
        cells.append(f'<TD BGCOLOR="{colour}" BORDER="1">{escape(estimator)}</TD>')
    row = f"<TR>{''.join(cells)}</TR>"
    title = f'<TR><TD COLSPAN="{len(cells)}">{escape(look.title)}</TD></TR>' if look.title else ""
    return (
        f'<<FONT POINT-SIZE="{_SMALL}"><TABLE BORDER="0" CELLSPACING="6" CELLPADDING="3">'
        f"{title}{row}</TABLE></FONT>>"
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\")
