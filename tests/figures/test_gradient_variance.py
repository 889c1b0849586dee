"""Every variance stands at its place, zero included, and no marker is hidden."""

import math
import sys
from types import SimpleNamespace

import pytest

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures import plot_gradient_variance

VARIANCE = {
    "score": {"loc": 3.1, "scale": 20.0, "b": 0.5},
    "pathwise": {"loc": 0.001, "scale": 0.0},
    "REBAR": {"b": 0.02},
}


def markers(figure):
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    return [(line.get_xdata()[0], line.get_ydata()[0], line) for line in lines]


def test_a_marker_for_each_variance():
    found = markers(plot_gradient_variance(VARIANCE))
    drawn = sorted(x for x, _, _ in found)
    assert drawn[1:] == sorted(v for by_site in VARIANCE.values() for v in by_site.values())[1:]
    assert len({(x, y) for x, y, _ in found}) == 6
    assert len({line.get_marker() for _, _, line in found}) == 3
    rows = [round(y) for _, y, line in found if line.get_marker() == found[0][2].get_marker()]
    assert rows == [0, 1, 2]


def test_zero_is_an_open_marker_at_the_edge():
    figure = plot_gradient_variance(VARIANCE)
    (zero,) = [(x, line) for x, _, line in markers(figure) if line.get_markerfacecolor() == "white"]
    assert zero[0] == figure.axes[0].get_xlim()[0] < 0.001
    assert "open marker at the left edge: 0" in figure.axes[0].get_xlabel()
    without = plot_gradient_variance({"score": VARIANCE["score"]})
    assert "open marker" not in without.axes[0].get_xlabel()


def test_all_zero():
    (found,) = markers(plot_gradient_variance({"exact": {"z": 0.0}}))
    assert found[2].get_markerfacecolor() == "white"


def test_intervals():
    figure = plot_gradient_variance(VARIANCE, interval={"score": {"loc": (2.0, 4.5)}})
    bars = [tuple(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert (2.0, 4.5) in bars


def test_units_and_legend():
    figure = plot_gradient_variance(VARIANCE)
    assert "nats²" in figure.axes[0].get_xlabel()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(VARIANCE)
    figure.canvas.draw()
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_the_outcome_of_a_comparison():
    measurements = [SimpleNamespace(name=n, variance_by_site=v) for n, v in VARIANCE.items()]
    found = markers(plot_gradient_variance(SimpleNamespace(measurements=measurements)))
    assert [x for x, _, _ in found] == [x for x, _, _ in markers(plot_gradient_variance(VARIANCE))]


@pytest.mark.parametrize(
    ("variance", "complaint"),
    [
        ({}, "expected a mapping"),
        ({"score": {}}, "expected a mapping"),
        ([1.0], "expected a mapping"),
        ({"score": {"z": -1.0}}, "'score' at site 'z': .* at least 0, got -1.0"),
        ({"score": {"z": math.nan}}, "got nan"),
    ],
)
def test_refused(variance, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        plot_gradient_variance(variance)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="figures need matplotlib"):
        plot_gradient_variance(VARIANCE)
