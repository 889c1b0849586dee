"""Figures show the numbers that they claim to, under either line of arviz."""

import numpy as np
import pytest

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.export.groups import Labelled, group, inference_data
from pyro_dsvi.figures.pareto_k import plot_pareto_k
from pyro_dsvi.figures.posterior import plot_posterior
from pyro_dsvi.figures.predictive import plot_predictive


@pytest.fixture
def idata(exported):
    return inference_data(exported["groups"])


def words(figure):
    """Every text in a figure."""
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]


def test_the_posterior_beside_a_reference(idata):
    level = np.asarray(idata["posterior"]["level"])[0]
    figure = plot_posterior(
        idata, {"level": level + 1.0}, var_names=["level"], labels=("ours", "theirs")
    )
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in shown][:2] == ["level[Choate]", "level[Deerfield]"]
    assert len(shown) == level.shape[1]
    assert {"ours", "theirs"} <= set(words(figure))
    ours, theirs = (line for line in shown[0].lines if line.get_marker() in "so")
    assert ours.get_xdata()[0] == pytest.approx(np.median(level[:, 0]))
    assert theirs.get_xdata()[0] == pytest.approx(np.median(level[:, 0]) + 1)
    curves = [line for line in shown[0].lines if line.get_gid() == "density"]
    assert curves[0].get_linestyle() != curves[1].get_linestyle()  # told apart in print
    for curve, mode in zip(curves, (0.0, 1.0), strict=True):
        x, y = curve.get_data()
        assert x[np.argmax(y)] == pytest.approx(np.median(level[:, 0]) + mode, abs=0.3)


def test_another_export_is_a_reference_and_a_constant_a_point(idata):
    figure = plot_posterior(idata, idata, var_names=["tau"])
    assert len(figure.axes) == 1
    constant = {"tau": np.ones(10)}
    words(plot_posterior(idata, constant, var_names=["tau"]))


def test_the_predictive_bands_are_the_quantiles(idata):
    made = idata["posterior_predictive"]["y"]
    draws = np.asarray(made).reshape(made.shape[1], -1)
    x = -np.arange(draws.shape[1], dtype=float)  # not in order
    figure = plot_predictive(idata, x, xlabel="time (h)", ylabel="level (m)")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (h)", "level (m)")
    assert {"data", "median", "50% of draws", "94% of draws"} <= set(words(figure))
    median, data = axes.lines
    assert median.get_xdata() == pytest.approx(np.sort(x))
    assert median.get_ydata()[::-1] == pytest.approx(np.median(draws, 0))
    assert data.get_ydata() == pytest.approx(np.asarray(idata["observed_data"]["y"]).reshape(-1))
    wide = axes.collections[0].get_paths()[0].get_extents()
    low, high = np.quantile(draws, (0.03, 0.97), axis=0)
    assert (wide.ymin, wide.ymax) == pytest.approx((low.min(), high.max()))


def test_predictions_for_other_data_have_no_observations(idata):
    x = np.zeros(idata["predictions"]["y"].shape[2:])
    figure = plot_predictive(idata, x, var_name="y", group="predictions")
    assert "data" not in words(figure)
    figure = plot_predictive(
        idata, x, var_name="y", group="predictions", data=([0.0, 1.0], [2.0, 3.0])
    )
    assert figure.axes[0].lines[1].get_ydata().tolist() == [2.0, 3.0]


def test_pareto_k_is_drawn_beside_the_bound(idata):
    figure = plot_pareto_k(idata)
    (axes,) = figure.axes
    stats = idata["sample_stats"]
    bound = float((np.asarray(stats["lp"]) - np.asarray(stats["log_q"])).mean())
    assert f"ELBO {bound:.2f}" in axes.get_title()
    good, bad, threshold = axes.lines
    assert len(good.get_xdata()) + len(bad.get_xdata()) == idata["observed_data"]["y"].size
    assert (np.asarray(good.get_ydata()) <= threshold.get_ydata()[0]).all()
    assert f"good ({len(good.get_xdata())})" in words(figure)


def test_weights_that_nobody_can_trust_are_drawn_as_bad():
    rng = np.random.default_rng(0)
    sample, mu = ("chain", "draw"), rng.normal(size=(1, 2000))
    terms = {"lp": Labelled(sample, -50 * (mu - 3) ** 2), "log_q": Labelled(sample, -(mu**2) / 2)}
    far = inference_data(
        {
            "posterior": group({"mu": Labelled(sample, mu)}),
            "log_likelihood": group({"y": Labelled((*sample, "i"), -(mu[..., None] ** 2))}),
            "sample_stats": group(terms),
        }
    )
    _, bad, _ = plot_pareto_k(far).axes[0].lines
    assert len(bad.get_xdata()) == 1


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda i: plot_posterior(i, {"tau": np.ones(3)}, var_names=["nu"]), "no variable 'nu'"),
        (lambda i: plot_posterior(i, {}, var_names=["tau"]), "the reference has no variable 'tau'"),
        (lambda i: plot_posterior(i, {"tau": np.ones((3, 2))}), r"shape \(\), in the reference"),
        (lambda i: plot_posterior(i, i), "elements to draw"),
        (lambda i: plot_posterior(i, {}), "0 elements to draw"),
        (lambda i: plot_predictive(i, [1.0]), "20 elements of 'y' are predicted, got 1 inputs"),
        (lambda i: plot_predictive(i, [1.0], group="postdictive"), "no group 'postdictive'"),
        (lambda i: plot_predictive(i, [1.0], group="predictions"), "pass var_name="),
        (lambda i: plot_predictive(i, [1.0], var_name="z"), "no variable 'z'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(idata, draw, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        draw(idata)
