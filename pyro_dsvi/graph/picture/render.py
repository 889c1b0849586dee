"""The graph as a picture: by graphviz where it is installed, else by matplotlib."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_dsvi.errors import InvalidArgument, PlainPictureWarning
from pyro_dsvi.graph.picture import dot, plain
from pyro_dsvi.graph.picture.graph import Graph
from pyro_dsvi.graph.picture.look import look_of

_PICTURES = ("svg", "png", "pdf")
_TEXTS = ("gv", "dot")
_ENGINES = (None, "graphviz", "matplotlib")


def render(graph: Graph, path: Any, variance: Any, engine: str | None) -> bytes:
    """Draw a graph; the arguments are those of :meth:`Graph.render`."""
    kind = "svg" if path is None else Path(path).suffix.removeprefix(".").lower()
    if kind not in (*_PICTURES, *_TEXTS):
        endings = ", ".join(f".{known}" for known in (*_PICTURES, *_TEXTS))
        raise InvalidArgument(f"render: the ending of {str(path)!r} is none of {endings}")
    if engine not in _ENGINES:
        raise InvalidArgument(
            f"render: engine must be 'graphviz', 'matplotlib' or None, got {engine!r}"
        )
    look = look_of(graph, _by_site(graph, variance))
    if kind in _TEXTS:
        picture = dot.source(look).encode()
    elif engine == "matplotlib":
        picture = plain.draw(look, kind)
    else:
        try:
            picture = dot.draw(look, kind)
        except InvalidArgument as error:
            if engine == "graphviz":
                raise
            warnings.warn(f"{error}; drawn by matplotlib", PlainPictureWarning, stacklevel=3)
            picture = plain.draw(look, kind)
    if path is not None:
        Path(path).write_bytes(picture)
    return picture


def _by_site(graph: Graph, variance: Any) -> Mapping[str, float]:
    """The variance of each site's gradient, by the name of the site's node."""
    if variance is None:
        return {}
    given = getattr(variance, "variance_by_site", variance)
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            "render: variance must be a mapping from sites to numbers, or have one as "
            f"variance_by_site, got {variance!r}"
        )
    return {graph[site].name: float(value) for site, value in given.items()}
