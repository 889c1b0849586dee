"""The isolation that conftest.py promises, shown on tests that would disturb their successors."""

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

# They run in this order, in one process.
TESTS = """
import random

import numpy as np
import pyro
import pytest
import torch

seen = {}


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_leaves_everything_changed():
    pyro.param("left behind", torch.tensor(1.0))
    pyro.settings.set(validate_infer=False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    assert list(pyro.get_param_store()) == ["left behind"]


def test_finds_everything_as_it_was():
    assert not list(pyro.get_param_store())
    assert pyro.settings.get("validate_infer") is True
    assert torch.get_default_dtype() is torch.float32
    assert torch.rand(()).device.type == "cpu"
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["one", "other"])
def test_draws(name):
    seen[name] = draws()


def test_draws_differ():
    assert all(one != other for one, other in zip(seen["one"], seen["other"]))
    # What a first run of test_draws[one] gives, whatever ran before it:
    print("\\ndrawn", seen["one"])


@pytest.mark.cuda
def test_needs_a_gpu():
    assert torch.cuda.is_available()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(test_inner=TESTS)
    pytester.makeini("[pytest]\nmarkers = cuda")
    return pytester


def run(suite: pytest.Pytester, *args: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "no:cacheprovider", "-s", "-rs", *args)


def test_nothing_reaches_the_next_test(suite):
    counts = run(suite).parseoutcomes()
    assert counts.get("failed", 0) == counts.get("errors", 0) == 0
    assert counts["passed"] + counts.get("skipped", 0) == 6


def test_a_test_draws_the_same_whatever_ran_before(suite):
    def drawn(*args: str) -> str:
        (line,) = [line for line in run(suite, *args).outlines if line.startswith("drawn")]
        return line

    assert drawn() == drawn("-k", "draw")


def test_a_test_for_a_gpu_is_skipped_visibly(suite, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = run(suite, "-k", "gpu")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs a CUDA device, found none"])
