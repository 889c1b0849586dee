"""A picture comes with graphviz and without, and nothing in it hides anything else."""

import sys
from itertools import combinations
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument, PlainPictureWarning, UnknownNode
from pyro_dsvi.graph import Kind, trace_graph
from pyro_dsvi.graph.picture import dot
from pyro_dsvi.graph.picture.layers import arrange
from pyro_dsvi.graph.picture.look import look_of
from pyro_dsvi.graph.picture.plain import _size
from pyro_dsvi.graph.picture.wires import wires
from tests.scenarios import SCENARIOS

PNG, PDF = b"\x89PNG", b"%PDF"


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 10, 3) as i:
        b = pyro.sample("b", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(loc + b, 1.0), obs=x[i])


def guide(x):
    net = torch.nn.Linear(1, 2)
    pyro.module("net", net, update_module_params=True)
    mean, log_scale = net(torch.ones(1))
    pyro.sample("loc", dist.Normal(mean, log_scale.exp()))
    with pyro.plate("data", 10, 3) as i:
        pyro.sample("b", dist.Bernoulli(logits=param("$eta_<1>", torch.zeros(10))[i]))


@pytest.fixture
def graph() -> dsvi.graph.Graph:
    return trace_graph(model, guide, torch.randn(10))


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)


@pytest.fixture
def no_program(monkeypatch):
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", "")


# -- places ----------------------------------------------------------------------------------


def placed(graph):
    look = look_of(graph, {})
    sizes = {name: _size(figure) for name, figure in look.figures.items()}
    plates = {name: figure.plates for name, figure in look.figures.items()}
    return look, sizes, arrange(sizes, plates, look.edges)


def frame(layout, sizes, name):
    """Left, bottom, right and top of a figure."""
    (x, y), (width, height) = layout.centres[name], sizes[name]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(a, b, by=-1e-9):
    return a[0] < b[2] + by and b[0] < a[2] + by and a[1] < b[3] + by and b[1] < a[3] + by


def inside(a, b):
    return b[0] < a[0] and b[1] < a[1] and a[2] < b[2] and a[3] < b[3]


def along(start, steps):
    """Points along an arrow."""
    for step in steps:
        for i in range(1, 21):
            t = i / 20
            if len(step) == 1:
                yield tuple(a + t * (b - a) for a, b in zip(start, step[0], strict=True))
            else:
                weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                points = (start, *step)
                yield tuple(
                    sum(w * p[axis] for w, p in zip(weights, points, strict=True))
                    for axis in (0, 1)
                )
        start = step[-1]


@pytest.mark.parametrize("name", [*SCENARIOS, "own"])
def test_nothing_lies_on_anything_else(name):
    if name == "own":
        graph = trace_graph(model, guide, torch.randn(10))
    else:
        for parameter, value in SCENARIOS[name].parameters().items():
            param(parameter, value.detach().clone())
        graph = trace_graph(SCENARIOS[name].model, SCENARIOS[name].guide)
    look, sizes, layout = placed(graph)
    frames = {name: frame(layout, sizes, name) for name in look.figures}
    for a, b in combinations(frames, 2):
        assert not overlap(frames[a], frames[b]), (a, b)
    for box in layout.boxes:
        corners = box.left, box.bottom, box.right, box.top
        for figure in look.figures.values():
            belongs = figure.plates[: len(box.plates)] == box.plates
            assert inside(frames[figure.name], corners) == belongs
            assert overlap(frames[figure.name], corners) == belongs
    for a, b in combinations(layout.boxes, 2):
        corners = [(box.left, box.bottom, box.right, box.top) for box in (a, b)]
        nested = b.plates[: len(a.plates)] == a.plates
        assert inside(corners[1], corners[0]) if nested else not overlap(*corners)
    kinds = {name: figure.kind for name, figure in look.figures.items()}
    for (v, w), (start, steps) in wires(look.edges, layout, sizes, kinds).items():
        assert layout.layers[v] < layout.layers[w]
        for point in along(start, steps):
            touched = [
                n for n in frames if n not in (v, w) and overlap((*point, *point), frames[n])
            ]
            assert touched == []


def test_crossing_plates_each_have_a_box():
    def crossing():
        outer, inner = pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 3, dim=-1)
        with outer:
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with inner:
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with outer, inner:
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=torch.zeros(2, 3))

    graph = trace_graph(crossing, pyro.infer.autoguide.AutoNormal(crossing))
    _, _, layout = placed(graph)
    assert [box.plates for box in layout.boxes] == [("inner",), ("outer",), ("outer", "inner")]


# -- words, shapes, colours ------------------------------------------------------------------


def test_what_each_node_looks_like(graph):
    look = look_of(graph, {"b": 0.12345})
    assert look.figures["b"].lines == ("b", "ScoreFunction", "variance 0.123")
    assert look.figures["loc"].lines == ("loc", "Pathwise")
    assert look.figures["net.weight"].lines == ("net", "weight, bias")
    assert "net.bias" not in look.figures
    assert look.figures["log q(b)"].lines == ("−log q(b)",)
    assert look.figures["loc"].fill != look.figures["b"].fill
    assert set(look.colours) == {"Pathwise", "ScoreFunction"}
    assert look.plates == {"data": "data: 3 of 10"}


def brightness(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_can_be_read_on_every_colour():
    objective = dsvi.MixedELBO(estimators={"b": dsvi.DisARM(), "loc": dsvi.MeasureValued()})
    look = look_of(trace_graph(model, guide, torch.randn(10), objective=objective), {})
    assert set(look.colours) == {"DisARM", "MeasureValued"}
    assert all(brightness(figure.fill) > 0.4 for figure in look.figures.values())
    assert len(set(look.colours.values())) == 2


def test_in_graphvizs_language(graph):
    pytest.importorskip("graphviz")
    source = dot.source(look_of(graph, {}))
    shapes = [
        line.split("shape=")[1].split()[0] for line in source.splitlines() if "shape=" in line
    ]
    costs = len(graph.of_kind(Kind.COST))
    assert shapes.count("diamond") == costs
    assert shapes.count("circle") == 2
    assert "subgraph cluster_0" in source
    assert "data: 3 of 10" in source
    assert "$eta_&lt;1&gt;" in source


def test_its_text_is_written(graph, tmp_path):
    pytest.importorskip("graphviz")
    written = graph.render(tmp_path / "graph.gv")
    assert written.startswith(b"digraph")
    assert (tmp_path / "graph.gv").read_bytes() == written


# -- engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "head"), [("png", PNG), ("pdf", PDF), ("svg", b"<?xml")])
def test_matplotlib_draws_it(graph, tmp_path, ending, head):
    path = tmp_path / f"graph.{ending}"
    assert graph.render(str(path), engine="matplotlib").startswith(head)
    assert path.read_bytes().startswith(head)


def test_without_the_package_a_picture_still_comes(graph, no_package, tmp_path):
    with pytest.warns(PlainPictureWarning, match=r"pip install 'pyro-dsvi\[graph\]'.*matplotlib"):
        assert graph.render(tmp_path / "graph.png").startswith(PNG)


def test_without_the_program_a_picture_still_comes(graph, no_program, tmp_path):
    with pytest.warns(PlainPictureWarning, match="apt-get install graphviz.*drawn by matplotlib"):
        assert graph.render(tmp_path / "graph.png").startswith(PNG)


def test_in_a_notebook(graph, no_package):
    with pytest.warns(PlainPictureWarning):
        shown = graph._repr_svg_()
    assert "</svg>" in shown


def test_with_the_program(graph, tmp_path):
    pytest.importorskip("graphviz")
    try:
        picture = graph.render(tmp_path / "graph.svg", engine="graphviz")
    except InvalidArgument as error:
        pytest.skip(str(error))
    assert b"</svg>" in picture


def test_a_report_of_variances(graph, tmp_path):
    pytest.importorskip("graphviz")
    report = SimpleNamespace(variance_by_site={"b": 0.25, "loc": 3e-7})
    shown = graph.render(tmp_path / "graph.gv", variance=report)
    assert b"variance 0.25" in shown
    assert b"variance 3e-07" in shown
    assert graph.render(tmp_path / "graph.gv", variance=report.variance_by_site) == shown


# -- refusals --------------------------------------------------------------------------------


def test_an_unknown_ending(graph):
    with pytest.raises(InvalidArgument, match=r"'graph\.jpg' is none of \.svg"):
        graph.render("graph.jpg")


def test_an_unknown_engine(graph):
    with pytest.raises(InvalidArgument, match=r"engine must be .* got 'neato'"):
        graph.render(engine="neato")


def test_graphviz_if_it_must_be(graph, no_package):
    with pytest.raises(InvalidArgument, match=r"pip install 'pyro-dsvi\[graph\]'"):
        graph.render(engine="graphviz")
    with pytest.raises(InvalidArgument, match=r"pip install 'pyro-dsvi\[graph\]'"):
        graph.render("graph.gv")


def test_neither_engine(graph, no_package, monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with (
        pytest.warns(PlainPictureWarning),
        pytest.raises(InvalidArgument, match="neither graphviz, nor networkx"),
    ):
        graph.render()


def test_variance_of_an_unknown_site(graph):
    with pytest.raises(UnknownNode, match="no node 'c'"):
        graph.render(variance={"c": 1.0})


def test_variance_that_is_no_mapping(graph):
    with pytest.raises(InvalidArgument, match="variance must be a mapping"):
        graph.render(variance=[1.0])
