"""Smoothed weights are the same under either arviz, and keep their scale."""

import numpy as np
import pytest

from pyro_dsvi.diagnostics.pareto import smooth

SPREAD = np.array([[0.3], [0.6], [1.5]])


def test_weights_keep_their_scale_and_tails_their_shape():
    log_w = SPREAD * np.random.default_rng(0).normal(size=(3, 4000))
    found = smooth(log_w)
    expected = SPREAD[:2, 0] ** 2 / 2  # of log-normal weights
    assert found.log_mean[:2] == pytest.approx(expected, abs=4 * found.standard_error[:2].max())
    assert list(found.pareto_k) == sorted(found.pareto_k)
    assert found.pareto_k[0] < 0.3 < found.pareto_k[2] < 1
    np.testing.assert_allclose(np.exp(found.log_weights).sum(1), 1)


def test_the_body_of_the_weights_is_left_as_it_is():
    log_w = np.random.default_rng(1).normal(size=(1, 1000))
    found = smooth(log_w)
    body = np.argsort(log_w[0])[:500]
    shift = found.log_weights[0, body] - log_w[0, body]
    np.testing.assert_allclose(shift, shift[0], atol=1e-12)
