"""Every axis has its quantity and unit, and no legend lies over the data."""

import io
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_dsvi.diagnostics import (
    Comparison,
    Decomposition,
    Gradient,
    ImportanceWeights,
    Measurement,
    Part,
    PlateSplit,
    SimulatedCalibration,
    Split,
    WeightGroup,
)
from pyro_dsvi.diagnostics.certificate import compare
from pyro_dsvi.diagnostics.comparison import quality_of
from pyro_dsvi.diagnostics.tally import Spread


def gradient(mean: float, error: float) -> Gradient:
    as_tensor = torch.tensor([mean, -mean], dtype=torch.float64)
    within = torch.zeros(2, dtype=torch.float64)
    return Gradient({"a": as_tensor}, {"a": within + error}, {"a": within}, "by hand")


def comparison(variance: float = 2.0) -> Comparison:
    measurements = []
    for name, shift in (("unbiased", 0.0), ("far off", 90.0)):
        certificate = compare(gradient(1 + shift, 0.1), gradient(1.0, 0.0))
        spread = Spread(variance, variance / 2, variance * 2)
        errors = [(1, 1.0, 8), (2, 0.8, 4)] if variance else []
        rows = [
            quality_of(
                name, parameter, certificate, spread, errors,
                steps=8, particles=2, seconds=0.1, memory=math.nan,
            )
            for parameter in (None, "a")
        ]  # fmt: skip
        measurements.append(
            Measurement(name, rows[0], (rows[1],), {"z": variance}, certificate, 8, False)
        )
    return Comparison(tuple(measurements), 1e-3)


def decomposition() -> Decomposition:
    plate = PlateSplit(8, 2, Split(1.0, 2.0), Split(0.5, -0.1))
    part = Part(Split(3.0, 2.0), Split(0.1, 0.1), {"x": Split(3.0, 2.0)}, {"data": plate})
    sites = {"z": Split(3.0, 2.0)}
    return Decomposition(part, part, {"a": part}, sites, "STL", True, 1, 8, 4, False)


def weights() -> ImportanceWeights:
    log_w = np.random.default_rng(0).normal(size=(200, 7))
    groups = (
        WeightGroup(("z",), ("data",), log_w, 1.0),
        WeightGroup(("w",), (), 3 * log_w[:, 0], 1.0),
    )
    return ImportanceWeights(groups, 0.0, 200)


def calibration(elements: int = 4) -> SimulatedCalibration:
    p = np.random.default_rng(0).uniform(size=(60, elements))
    return SimulatedCalibration(tuple(f"z[{i}]" for i in range(elements)), p, 100, 0.01)


REPORTS = [
    (comparison, ["nats²", "nats per unit", "draws of the guide", "standard errors"]),
    (lambda: comparison(0.0), ["nats²"]),
    (decomposition, ["nats² per unit²"]),
    (weights, ["hat{k}", "share", "element"]),
    (calibration, ["Pr(draw < truth)", "simulations"]),
    (lambda: calibration(20), ["simulations"]),
]


@pytest.mark.parametrize(("report", "words"), REPORTS)
def test_axes_have_names_and_units(report, words):
    figure = report().plot()
    said = []
    for axes in figure.axes:
        if axes.get_visible():
            assert axes.get_xlabel()
            said += [axes.get_xlabel(), axes.get_ylabel()]
            assert axes.get_legend() is None  # it stands outside, on the figure
    for word in words:
        assert any(word in label for label in said), (word, said)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert plt.get_fignums() == []  # it belongs to the caller alone


def test_legends_do_not_cover_the_axes():
    for report in (comparison(), decomposition(), weights()):
        figure = report.plot()
        figure.savefig(io.BytesIO(), format="png", dpi=40)
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert not any(
            box.overlaps(axes.get_window_extent()) for axes in figure.axes if axes.get_visible()
        )


def test_a_z_score_that_is_far_out_is_drawn_at_the_edge():
    report = comparison()
    axes = report.plot().axes[3]
    critical = report["unbiased"].certificate.rows[0].critical
    drawn = np.concatenate([line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2])
    assert np.abs(drawn).max() == pytest.approx(3 * critical)
