"""The demo runs from one command, and leaves what it says."""

import arviz as az
import numpy as np
import pyro
import pytest
import torch

from pyro_dsvi.demo import __main__ as demo
from pyro_dsvi.demo.fitting import Settings, estimators, fit, logistic_regression, quality
from pyro_dsvi.demo.problem import load, prior_scale

NAMES = ["score function", "running mean", "leave-one-out", "pathwise"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Folder and output of one quick run, and whether it left global state as it was."""
    out = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    threads, random_state = torch.get_num_threads(), torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo.tqdm, "write", said.append)
        demo.main(["--quick", "--out", str(out)])
    kept = (
        torch.get_num_threads() == threads
        and torch.equal(torch.get_rng_state(), random_state)
        and not pyro.get_param_store().keys()
    )
    return out, "\n".join(said), kept


def test_the_table_has_a_row_for_each_estimator_and_for_scikit_learn(quick):
    _, said, _ = quick
    lines = said.splitlines()
    rows = {name: next(line for line in lines if line.startswith(name)) for name in NAMES}
    for name, row in rows.items():
        bound, start, end, error, log_score, kept, seconds = row[len(name) :].split()
        assert -2000 < float(bound) < 0
        assert float(start) > 0
        assert float(end) > 0
        assert 0 <= int(error.split("/")[0]) < int(error.split("/")[1]) == 114
        assert float(log_score) < 0
        assert 0 <= int(kept.split("/")[0]) <= int(kept.split("/")[1]) == 456
        assert float(seconds) > 0
    reference = next(line for line in lines if line.startswith("LogisticRegression"))
    assert reference.split()[4].endswith("/114")


def test_the_figure_is_a_png_and_both_paths_are_said(quick):
    out, said, _ = quick
    assert (out / "estimators.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for name in ("estimators.png", "posterior.nc"):
        assert str(out / name) in said


def test_arviz_opens_the_posterior(quick):
    out, _, _ = quick
    inference = az.from_netcdf(str(out / "posterior.nc"))
    weights = inference["posterior"]["weights"]
    assert weights.dims == ("chain", "draw", "basis")
    assert weights.shape == (1, 64, 456)
    assert weights.coords["basis"][0] == "bias"
    assert inference["posterior"].attrs["estimator"] == "pathwise"
    assert inference["observed_data"]["label"].shape == (455,)
    assert inference["log_likelihood"]["label"].dims == ("chain", "draw", "points")
    assert set(inference["sample_stats"].data_vars) == {"lp", "log_q"}
    kept = inference["constant_data"]["kept"]
    assert set(np.unique(kept)) <= {0, 1}
    summary = az.summary(inference, coords={"basis": ["bias"]}, kind="stats")
    assert list(summary.index) == ["weights[bias]"]


def test_nothing_global_is_left_changed(quick):
    _, _, kept = quick
    assert kept


def test_the_same_seed_gives_the_same_fit():
    settings = Settings(steps=3, checks=1, final_particles=32, repeats=2, warm_up=0)
    data = load()
    build = estimators(settings.particles)["leave-one-out"]
    one, two = (fit("leave-one-out", build, data, settings) for _ in range(2))
    assert torch.equal(one.loc, two.loc)
    assert one.bound == two.bound
    assert one.variance_start == two.variance_start


def test_the_pathwise_fit_errs_as_often_as_logistic_regression():
    settings = Settings(steps=400, checks=1, repeats=2, warm_up=0)
    data = load()
    found = fit("pathwise", estimators(settings.particles)["pathwise"], data, settings)
    reference, _ = logistic_regression(data)
    assert abs(found.quality.wrong - reference.wrong) <= 1
    assert found.kept.sum() < 46  # a tenth of the weights


def test_the_bound_is_flat_in_the_prior_scale_that_the_model_uses():
    loc, scale = torch.tensor([0.0, 2.0, -0.3]).double(), torch.tensor([0.5, 0.1, 1.2]).double()
    best = prior_scale(loc.requires_grad_(), scale)
    assert not best.requires_grad
    best.requires_grad_()
    q, p = torch.distributions.Normal(loc.detach(), scale), torch.distributions.Normal(0.0, best)
    (slope,) = torch.autograd.grad(torch.distributions.kl_divergence(q, p).sum(), best)
    assert slope.abs().max() < 1e-12


def test_predictions_are_judged_by_the_probability_of_the_right_label():
    judged = quality(torch.tensor([0.9, 0.4, 0.2]), torch.tensor([1.0, 1.0, 0.0]))
    assert (judged.wrong, judged.points) == (1, 3)
    assert judged.log_score == pytest.approx(np.log([0.9, 0.4, 0.8]).mean())


def test_the_held_out_fifth_is_apart_and_standardised_by_the_rest():
    data = load()
    assert (len(data.train), len(data.test)) == (455, 114)
    assert len(set(data.rows)) == 455
    assert data.train.mean(0).abs().max() < 1e-5
    assert data.train.std(0, correction=0).sub(1).abs().max() < 1e-5
    share = data.train_labels.mean() - data.test_labels.mean()
    assert abs(share) < 0.01


@pytest.mark.parametrize(
    ("option", "value"), [("--steps", "0"), ("--particles", "1"), ("--steps", "many")]
)
def test_an_argument_that_cannot_work_is_refused(option, value, capsys):
    with pytest.raises(SystemExit):
        demo.main([option, value])
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_a_missing_package_is_said_with_its_extra(module, package, monkeypatch, tmp_path):
    found = demo.importlib.util.find_spec
    monkeypatch.setattr(
        demo.importlib.util, "find_spec", lambda name: None if name == module else found(name)
    )
    with pytest.raises(SystemExit, match=rf'{package}: pip install "pyro-dsvi\[demo\]"'):
        demo.main(["--quick", "--out", str(tmp_path)])
