"""The noisy cone: its evidence by quadrature, and what its guides' densities say."""

import math
from typing import Any

import pyro
import pytest
import torch
from torch.distributions.constraints import positive

from benchmarks import cone as benchmark
from benchmarks.programs import cone
from tests.scenarios import normal


def log_weight(model, guide, **parameters: float):
    """Log weights of 1000 draws, and the draws, at given parameters."""
    pyro.clear_param_store()
    for name, value in parameters.items():
        pyro.param(name, torch.tensor(value, dtype=torch.float64), constraint=positive)
    with torch.no_grad(), pyro.plate("draws", 1000):
        drawn: Any = pyro.poutine.trace(guide).get_trace()
        scored = pyro.poutine.trace(pyro.poutine.replay(model, drawn)).get_trace()
    log_p, log_q = log_density(scored), log_density(drawn)
    return log_p - log_q, {name: drawn.nodes[name]["value"] for name in ("x", "y")}


def log_density(trace: Any):
    """Summed over sites, of each draw."""
    trace.compute_log_prob()
    return sum(node["log_prob"] for node in trace.nodes.values() if node["type"] == "sample")


def log_joint(x, y):
    """Log p(x, y, z = 5), by hand."""
    t = x**2 + y**2
    prior = normal(x, 0.0, math.log(10)) + normal(y, 0.0, math.log(10))
    return prior + normal(5.0, t, (0.1 + t / 100).log())


def test_the_evidence_in_the_papers_units():
    assert cone.log_evidence() == pytest.approx(-5.3232, abs=5e-5)


def test_the_posterior_integrates_to_one_over_the_plane():
    middles = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000 * 8 - 4
    density = cone.posterior_density(middles[None, :].numpy(), middles[:, None].numpy())
    assert density.sum() * (8 / 3000) ** 2 == pytest.approx(1.0, abs=1e-8)


def test_the_posterior_is_the_joint_over_the_evidence():
    x, y = torch.tensor([1.2, -2.2, 0.3], dtype=torch.float64), torch.tensor(1.5).double()
    expected = (log_joint(x, y) - cone.log_evidence()).exp()
    found = torch.tensor(cone.posterior_density(x.numpy(), y.numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_the_density_of_the_polar_guide_is_that_of_the_plane():
    loc, scale = 1.5, 0.3
    log_w, place = log_weight(cone.model, cone.polar, loc=loc, scale=scale)
    t = place["x"] ** 2 + place["y"] ** 2
    middle = (t.log() - loc) / scale
    log_q = (
        -0.5 * middle**2 - math.log(scale * math.sqrt(2 * math.pi)) - t.log() - math.log(math.pi)
    )
    torch.testing.assert_close(log_w, log_joint(**place) - log_q, rtol=0, atol=1e-10)


def test_the_right_density_of_the_angle_leaves_it_no_part_in_the_weight():
    """Then the weight is p(x, y, z) / q(x, y), with the blurred circle summed over its angle."""
    radius, blur = 2.0, 0.5
    sharpness = radius / blur**2
    log_w, place = log_weight(
        cone.model_von_mises_angle,
        cone.blurred_circle,
        radius=radius,
        blur=blur,
        sharpness=sharpness,
    )
    t = place["x"] ** 2 + place["y"] ** 2
    argument = radius * t.sqrt() / blur**2
    log_bessel = torch.special.i0e(argument).log() + argument
    log_q = log_bessel - (t + radius**2) / (2 * blur**2) - math.log(2 * math.pi * blur**2)
    expected = log_joint(**place) - log_q
    # as far as the polynomials go by which torch has the von Mises distribution's Bessel function
    torch.testing.assert_close(log_w, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", benchmark.ROWS[:3] + benchmark.ROWS[4:], ids=lambda row: row[:2])
def test_no_bound_is_above_the_evidence(row):
    torch.manual_seed(0)
    guide = row.guide()
    for size in (1, 5):
        log_w = benchmark.log_weights(row.model, guide, 20_000)
        value, error = benchmark.bound(log_w, size)
        assert value < cone.log_evidence() + 4 * error


def test_a_bound_is_the_mean_of_independent_estimates():
    log_w = torch.tensor([1.0, 3.0, 2.0, 6.0, 100.0], dtype=torch.float64).log()
    value, error = benchmark.bound(log_w, 2)
    assert value == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert error == pytest.approx(math.log(2) / 2)
