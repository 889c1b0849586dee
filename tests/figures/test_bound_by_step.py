"""The lines are the medians, the bands the quantiles, and the tail fills its axes."""

import numpy as np
import pytest

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures import plot_bound


def climb(runs: int, steps: int = 300) -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=(runs, steps))
    return -1000 * np.exp(-np.arange(steps) / 20) - 7 + noise


def band_of(axes) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the first band, by step."""
    ((vertices,),) = [[p.vertices for p in axes.collections[0].get_paths()]]
    low, high = {}, {}
    for x, y in vertices:
        low[x], high[x] = min(y, low.get(x, y)), max(y, high.get(x, y))
    return np.array([low[x] for x in sorted(low)]), np.array([high[x] for x in sorted(high)])


def test_quantiles_over_runs_at_each_step():
    bounds = climb(9)
    whole, _ = plot_bound({"ELBO": bounds}, level=0.8, window=1).axes
    np.testing.assert_allclose(whole.lines[0].get_ydata(), np.median(bounds, axis=0))
    low, high = band_of(whole)
    np.testing.assert_allclose(low, np.quantile(bounds, 0.1, axis=0))
    np.testing.assert_allclose(high, np.quantile(bounds, 0.9, axis=0))


def test_a_window_about_each_step_shrinks_at_the_ends():
    bounds = np.arange(10.0) ** 2
    whole, _ = plot_bound(bounds, window=5).axes
    np.testing.assert_allclose(whole.lines[0].get_ydata(), bounds)  # a climb moves no median
    low, high = band_of(plot_bound(bounds, window=5, level=1 - 1e-12).axes[0])
    np.testing.assert_allclose(low, [0, 0, 0, 1, 4, 9, 16, 25, 49, 81], atol=1e-9)
    np.testing.assert_allclose(high, [0, 4, 16, 25, 36, 49, 64, 81, 81, 81], atol=1e-9)


def test_the_tail_fills_its_axes():
    bounds = climb(9)
    whole, end = plot_bound(bounds, tail=0.2).axes
    assert end.get_xlim() == (240, 299)
    low, high = end.get_ylim()
    inside = bounds[:, 240:]
    assert inside.min() - 1 < low < np.median(inside) < high < inside.max() + 1
    assert whole.get_ylim()[0] < -900
    assert [axes.get_title() for axes in (whole, end)] == ["all 300 steps", "the last 60 steps"]
    assert "nats" in whole.get_ylabel()


def test_many_steps_are_drawn_at_some_of_them():
    whole, _ = plot_bound(climb(2, 5000)).axes
    at = whole.lines[0].get_xdata()
    assert len(at) == 1000
    assert (at[0], at[-1]) == (0, 4999)


def test_curves_differ_without_colours_and_the_legend_hides_none():
    figure = plot_bound({"A": climb(2), "B": climb(3), "C": climb(1)}, reference=-6.5)
    whole, end = figure.axes
    assert len({line.get_linestyle() for line in whole.lines[:3]}) == 3
    (legend,) = figure.legends
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in (whole, end))
    assert [text.get_text() for text in legend.get_texts()] == ["A", "B", "C", "reference -6.5"]
    assert end.get_ylim()[0] < -6.5 < end.get_ylim()[1]


def test_a_run_that_was_lost_counts_no_more():
    bounds = climb(3)
    bounds[0, 200:] = -np.inf
    whole, _ = plot_bound(bounds, window=1).axes
    np.testing.assert_allclose(whole.lines[0].get_ydata()[200:], bounds[1:, 200:].mean(0))


@pytest.mark.parametrize(
    ("bounds", "options", "complaint"),
    [
        ({}, {}, "no bound to draw"),
        ([1.0], {}, r"at least two steps, got \(1,\)"),
        (np.zeros((2, 3, 4)), {}, r"shape \[steps\] or \[runs, steps\]"),
        ({"ELBO": [1.0, np.nan, 2.0]}, {}, "'ELBO': at step 1 no estimate is finite"),
        ([1.0, 2.0], {"tail": 0.0}, "tail must lie between 0 and 1"),
        ([1.0, 2.0], {"level": 1.0}, "level must lie between 0 and 1"),
        ([1.0, 2.0], {"window": 0}, "window must be at least 1"),
    ],
)
def test_refused(bounds, options, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        plot_bound(bounds, **options)
