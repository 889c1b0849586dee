"""One dictionary of numpy arrays is read alike by arviz 0 and arviz 1."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.export.groups import Labelled, arviz_series, group, inference_data
from tests.torch_free.conftest import ROOT

GROUPS = {
    "posterior",
    "posterior_predictive",
    "predictions",
    "prior",
    "prior_predictive",
    "sample_stats",
    "log_likelihood",
    "observed_data",
    "constant_data",
}


@pytest.fixture
def idata(exported):
    return inference_data(exported["groups"])


def test_the_installed_arviz_gets_its_own_type(idata):
    assert arviz_series() == int(version("arviz").split(".")[0])
    assert type(idata).__name__ == ("InferenceData" if arviz_series() == 0 else "DataTree")


def test_neither_torch_nor_pyro_is_needed():
    program = f"""
import sys
from types import ModuleType

sys.modules["torch"] = sys.modules["pyro"] = None  # an import of either fails
for name in ("pyro_dsvi", "pyro_dsvi.export"):
    bare = ModuleType(name)
    bare.__path__ = [{str(ROOT)!r} + "/" + name.replace(".", "/")]
    sys.modules[name] = bare
import pyro_dsvi.export.groups, pyro_dsvi.export.loo
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_every_group_is_read_with_its_names_and_values(exported, idata):
    assert set(exported["groups"]) == GROUPS
    for name, made in exported["groups"].items():
        read = idata[name]
        assert set(read.data_vars) == set(made["data_vars"])
        for variable, kept in made["data_vars"].items():
            assert isinstance(kept["data"], np.ndarray)
            assert read[variable].dims == kept["dims"]
            assert read[variable].dtype == kept["data"].dtype
            assert (read[variable].values == kept["data"]).all()
            assert set(kept["dims"]) <= set(made["coords"])
        for dim, labels in made["coords"].items():
            assert list(read.coords[dim].values) == list(labels["data"])
        assert read.attrs["inference_library"] == "pyro_dsvi"


def test_draws_are_one_chain(exported):
    for name, made in exported["groups"].items():
        for kept in made["data_vars"].values():
            if "data" not in name:
                assert kept["dims"][:2] == ("chain", "draw")
                assert kept["data"].shape[:2] == (1, 2000)


def test_a_summary_has_a_row_for_each_element(idata):
    import arviz as az

    table = az.summary(idata, var_names=["tau", "level"], kind="stats")
    assert [str(row) for row in table.index] == [
        "tau",
        *(f"level[{s}]" for s in ("Choate", "Deerfield", "Exeter", "Hotchkiss", "Lawrence")),
    ]
    level = np.asarray(idata["posterior"]["level"])[0]
    assert table["mean"].astype(float).iloc[1:].to_numpy() == pytest.approx(level.mean(0), abs=0.02)


def test_a_group_numbers_a_dimension_without_labels():
    made = group({"z": Labelled(("a", "b"), np.zeros((2, 3)))}, {"a": ["p", "q"], "c": [1]})
    assert made["coords"]["b"]["data"].tolist() == [0, 1, 2]
    assert set(made["coords"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("variables", "coords", "complaint"),
    [
        ({"z": Labelled(("a", "a"), np.zeros((2, 2)))}, {}, "name one twice"),
        ({"z": Labelled(("a",), np.zeros(2))}, {"a": [1]}, "2 labels are needed"),
        (
            {"z": Labelled(("a",), np.zeros(2)), "w": Labelled(("a",), np.zeros(3))},
            {},
            "'w': dimension 'a' has length 3 here and 2 elsewhere",
        ),
    ],
)
def test_what_does_not_fit_is_refused(variables, coords, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        group(variables, coords)
