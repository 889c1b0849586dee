"""Calibration of fits that are right, shifted, too narrow and too wide."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import SimulatedCalibration, vsbc
from pyro_dsvi.diagnostics.simulated_calibration import _asymmetry
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

SCALE = 0.5**0.5


def model():
    with pyro.plate("two", 2):
        z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("x", dist.Normal(z, 1.0), obs=f64([9.0, 9.0]))


def posterior(shift=0.0, factor=1.0):
    def fit(model, data):
        def guide():
            with pyro.plate("two", 2):
                pyro.sample("z", dist.Normal(data["x"] / 2 + f64(shift), SCALE * factor))

        return guide

    return fit


def test_the_posterior_passes():
    found = vsbc(model, posterior(), num_simulations=200)
    assert found.passes
    assert found.names == ("z[0]", "z[1]")
    assert found.probabilities.shape == (200, 2)
    # Uniform: mean 1/2 and variance 1/12, but for the 200 draws that stand for the guide.
    z = found.lean * np.sqrt(12 * 200)
    assert np.abs(z).max() < 4
    assert found.spread == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("fit", "verdicts"),
    [
        (posterior([0.0, 0.6]), ("nothing seen", "too high")),
        (posterior([-0.6, 0.0]), ("too low", "nothing seen")),
        (posterior(0.0, 0.4), ("too narrow", "too narrow")),
        (posterior(0.0, 2.5), ("too wide", "too wide")),
    ],
)
def test_what_is_wrong_is_named(fit, verdicts):
    found = vsbc(model, fit, num_simulations=120, num_samples=50)
    assert found.verdicts == verdicts
    assert not found.passes


def test_the_distance_is_kolmogorov_and_smirnovs():
    from scipy.stats import ks_2samp

    p = np.random.default_rng(0).beta(2, 3, (80, 3)).round(2)
    p[:, 2] = 0.5 + np.linspace(0.4, 0.01, 80).round(2) * np.sign(np.arange(80) - 39.5)
    found = SimulatedCalibration(("a", "b", "c"), p, 100, 0.01)
    columns = (100 * p.T).round()  # whole numbers, so that equals are equal
    expected = [ks_2samp(column, 100 - column).statistic for column in columns]
    assert found.distance == pytest.approx(expected, abs=1e-9)
    assert found.distance[2] > 0.45  # leans one way far out, and the other way near the middle


def test_the_p_value_is_uniform_where_there_is_no_lean():
    p = np.random.default_rng(1).uniform(size=(60, 400))
    values = SimulatedCalibration(tuple(map(str, range(400))), p, 100, 0.5).p_value
    for level in (0.1, 0.5):
        assert abs((values <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 400)


def test_flips_of_a_symmetric_sample_change_nothing_of_its_size():
    flips = np.random.default_rng(0).choice([-1, 1], (5, 4))
    x = np.array([-2.0, 2.0, 1.0, -1.0])
    assert _asymmetry(x, np.ones((1, 4)))[0] == 0.0
    assert (_asymmetry(x, flips) <= 1).all()


def test_a_trained_guide_and_nothing_is_disturbed():
    """Each fit starts where the last one did, and leaves no trace."""
    pyro.param("bias", f64(0.2))
    starts = []

    def guide():
        loc = pyro.param("loc", torch.zeros(2, dtype=torch.float64))
        with pyro.plate("two", 2):
            pyro.sample("z", dist.Normal(loc, SCALE))

    def fit(model, data):
        starts.append((sorted(pyro.get_param_store()), pyro.param("bias").item()))
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.3}), dsvi.STL())
        for _ in range(25):
            svi.step()
        assert pyro.param("loc").sum().item() == pytest.approx(float(data["x"].sum()) / 2, abs=1.5)
        pyro.param("bias").unconstrained().data += 1
        return guide

    state = random_state()
    vsbc(model, fit, num_simulations=20, num_samples=20)
    assert same_random_state(random_state(), state)
    assert starts == [(["bias"], 0.2)] * 20
    assert list(pyro.get_param_store()) == ["bias"]
    assert pyro.param("bias").item() == 0.2


def test_a_point_mass_is_too_narrow():
    def fit(model, data):
        def guide():
            with pyro.plate("two", 2):
                pyro.sample("z", dist.Delta(data["x"] / 2))

        return guide

    found = vsbc(model, fit, num_simulations=40, num_samples=20)
    assert set(np.unique(found.probabilities)) <= {0.0, 1.0}
    assert all("too narrow" in verdict for verdict in found.verdicts)


def test_equals_count_a_half():
    def model():
        z = pyro.sample("z", dist.Bernoulli(f64(0.5)))
        pyro.sample("x", dist.Normal(0 * z, 1.0), obs=f64(1.0))

    def fit(model, data):
        return lambda: pyro.sample("z", dist.Bernoulli(f64(0.5)))

    found = vsbc(model, fit, num_simulations=60, num_samples=400)
    assert np.abs(np.abs(found.probabilities - 0.5) - 0.25).max() < 0.06
    assert found.verdicts == ("nothing seen",)


def test_a_guide_that_does_not_broadcast():
    def fit(model, data):
        def guide():
            with pyro.plate("two", 2):
                loc = [float(x) / 2 for x in data["x"]]
                assert len(torch.stack([f64(v) for v in loc]).shape) == 1
                pyro.sample("z", dist.Normal(f64(loc), SCALE).expand([2]))

        return guide

    assert vsbc(model, fit, num_simulations=20, num_samples=20).probabilities.shape == (20, 2)


def test_it_prints_and_goes_to_pandas():
    found = vsbc(model, posterior(), num_simulations=20, num_samples=20)
    assert "uniform has lean 0" in str(found)
    assert "<table>" in found._repr_html_()
    assert list(found.to_pandas().index) == ["z[0]", "z[1]"]


def factor_model():
    z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
    pyro.factor("f", -(z**2))


def improper_model():
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("x", dist.Normal(z, 1.0), obs=f64(1.0))


def minibatch_model():
    with pyro.plate("data", 4, subsample_size=2):
        pyro.sample("x", dist.Normal(f64(0.0), 1.0), obs=f64([1.0, 2.0]))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (factor_model, "site 'f' is a factor"),
        (improper_model, "site 'z': ImproperUniform cannot be sampled"),
        (minibatch_model, "plate 'data' takes 2 of 4"),
    ],
)
def test_what_cannot_be_simulated_is_refused(program, message):
    with pytest.raises(InvalidArgument, match=message):
        vsbc(program, posterior())


def test_other_refusals():
    with pytest.raises(InvalidArgument, match="at least 20"):
        vsbc(model, posterior(), num_simulations=3)
    with pytest.raises(InvalidArgument, match="must return a guide"):
        vsbc(model, lambda model, data: None)
    with pytest.raises(InvalidArgument, match="draws no latent"):
        vsbc(lambda: pyro.sample("x", dist.Normal(f64(0.0), 1.0), obs=f64(1.0)), posterior_of_none)


def posterior_of_none(model, data):
    return lambda: None
