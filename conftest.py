"""Isolation of every test, and of every docstring's example, from all the others.

A test starts with an empty param store, Pyro's and torch's default settings, and random
generators seeded by its own name: it gives the same numbers alone, in any order and in any
process. Whatever it changes there is put back when it ends.

This file lies above both ``tests/`` and ``pyro_dsvi/``, so that the examples are isolated too.
"""

import os
import random
import zlib
from collections.abc import Iterator

# Figures are drawn without a display. Set before anything can import matplotlib.
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pyro
import pytest
import torch

# For the test of this file: a run of pytest inside a test.
pytest_plugins = ["pytester"]

# Their assertions explain themselves as those in tests do.
pytest.register_assert_rewrite("tests.oracles", "tests.scenarios")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none, and say so."""
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device, found none")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(no_gpu)


@pytest.fixture(autouse=True)
def _empty_param_store() -> Iterator[None]:
    """No parameter comes from another test, and none stays."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True)
def _unchanged_settings() -> Iterator[None]:
    """Put back Pyro's settings, torch's default dtype and device, and the gradient mode."""
    settings = pyro.settings.get()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    grad = torch.is_grad_enabled()
    yield
    pyro.settings.set(**settings)
    torch.set_default_dtype(dtype)
    if torch.get_default_device() != device:
        torch.set_default_device(device)
    torch.set_grad_enabled(grad)


@pytest.fixture(autouse=True)
def _own_random_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed each generator by the test's node id, and put its state back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    pyro.set_rng_seed(zlib.crc32(request.node.nodeid.encode()))
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
