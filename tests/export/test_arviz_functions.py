"""arviz's own functions take the exported model with two plates as it is."""

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest

import pyro_dsvi as dsvi
from pyro_dsvi.export.groups import inference_data
from tests.export.programs import PUPILS, SCHOOLS
from tests.torch_free.exported import export

# pandas and matplotlib speak to arviz of their next releases.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def idata():
    return inference_data(export()["groups"])


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def test_summary(idata):
    table = az.summary(idata, var_names=["tau", "weights", "level"])
    assert len(table) == 1 + 2 + len(SCHOOLS)
    assert list(table.index)[-1] == "level[Lawrence]"
    assert np.isfinite(table.drop(columns="r_hat")).all(axis=None)  # one chain has no r_hat


@pytest.mark.parametrize(
    ("draw", "panels"),
    [
        (lambda i: az.plot_trace(i, var_names=["tau", "level"]), 4),
        (lambda i: az.plot_forest(i, var_names=["level"], combined=True), 1),
        (lambda i: az.plot_posterior(i, var_names=["tau", "level"]), 1 + len(SCHOOLS)),
        (lambda i: az.plot_ppc(i, num_pp_samples=20, random_seed=0), 1),
        (lambda i: az.plot_ppc(i, group="prior", num_pp_samples=20, random_seed=0), 1),
        (lambda i: az.plot_pair(i, var_names=["tau", "weights"]), 3),
        (lambda i: az.plot_loo_pit(i, y="y"), 1),
        (lambda i: az.plot_khat(dsvi.loo(i)), 1),
    ],
    ids="trace forest posterior ppc prior pair loo_pit khat".split(),
)
def test_plots(idata, draw, panels):
    axes = np.ravel(draw(idata))
    drawn = [ax for ax in axes if ax is not None and ax.has_data()]
    assert len(drawn) >= panels
    drawn[0].figure.canvas.draw()


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of the uncorrected weights
def test_loo_and_compare(idata):
    found = dsvi.loo(idata)
    assert found.n_data_points == len(SCHOOLS) * PUPILS
    assert found.loo_i.dims == ("school", "pupil")
    assert not found.warning
    table = az.compare({"corrected": found, "as if exact": idata})
    assert set(table.index) == {"corrected", "as if exact"}
    assert table.loc["corrected", "elpd_loo"] == found.elpd_loo


def test_a_file_and_back(idata, tmp_path):
    idata.to_netcdf(str(tmp_path / "posterior.nc"))
    read = az.from_netcdf(str(tmp_path / "posterior.nc"))
    assert set(read.groups()) == set(idata.groups())
    assert (read.posterior["level"] == idata.posterior["level"]).all()
    assert list(read.posterior.coords["school"].values) == SCHOOLS
