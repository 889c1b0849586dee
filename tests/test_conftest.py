"""The isolation that conftest.py promises, shown on tests that would otherwise disturb others.

Each pair runs in this order in one process: the first leaves something behind, the second
looks for it. The group mark keeps a pair together when tests are spread over processes.
"""

import random

import numpy as np
import pyro
import pytest
import torch

pytestmark = pytest.mark.xdist_group("isolation")


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_a_test_may_leave_params_and_settings_behind():
    pyro.param("left behind", torch.tensor(1.0))
    pyro.settings.set(validate_infer=False)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    assert list(pyro.get_param_store()) == ["left behind"]


def test_the_next_finds_none_of_them():
    assert not list(pyro.get_param_store())
    assert pyro.settings.get("validate_infer") is True
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["one", "other"])
def test_a_test_draws_by_its_own_name(name, request, _own_random_state):
    first = draws()
    next(iter([pyro.set_rng_seed(0)]))
    assert draws() != first


@pytest.mark.cuda
def test_cuda_is_there_where_the_mark_lets_a_test_run():
    assert torch.cuda.is_available()
