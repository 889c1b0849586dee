"""docs/bounds.md has a row for every bound, and its weights are those of the code."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyro_dsvi import bounds
from pyro_dsvi.bounds import Bound

PAGE = Path(__file__).parents[1] / "docs/bounds.md"
K, ALPHA, M, N, BETA = 6, 0.3, 2, 2.0, 0.4


def rows() -> dict[str, list[str]]:
    """The cells of the first table by the bound's name."""
    table = PAGE.read_text("utf-8").split("\n\n")
    lines = next(part for part in table if part.startswith("| bound | B |")).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip(" `"): row for row in cells}


def test_every_bound_has_a_row():
    written = {re.split(r"\W", name)[0] for name in rows()}
    there = {n for n in bounds.__all__ if issubclass(getattr(bounds, n), Bound)} - {"Bound"}
    assert written == there


@pytest.fixture
def log_w() -> Tensor:
    return torch.randn(K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(log_w: Tensor) -> dict[str, tuple[Bound, Tensor, Tensor, Tensor]]:
    """By bound: the weights of the model, of a live path, and of a frozen one, as written there."""
    w = log_w.softmax(0)
    g = log_w.reshape(M, K // M).softmax(1).flatten()
    s, c = ((1 - ALPHA) * log_w).softmax(0), (N * log_w).softmax(0)
    even, none = torch.full_like(w, 1 / K), torch.zeros_like(w)
    mix, mixed = BETA / K + (1 - BETA) * w, BETA / K + (1 - BETA) * w**2
    return {
        "Evidence()": (bounds.Evidence(), even, even, even),
        "IWAE()": (bounds.IWAE(), w, w, w**2),
        "Renyi(alpha)": (bounds.Renyi(ALPHA), s, s, ALPHA * s + (1 - ALPHA) * s**2),
        "MIWAE(m, k)": (bounds.MIWAE(M, K // M), g / M, g / M, g**2 / M),
        "PIWAE(m, k)": (bounds.PIWAE(M, K // M), w, g / M, g**2 / M),
        "CIWAE(beta)": (bounds.CIWAE(BETA), mix, mix, mixed),
        "RWS()": (bounds.RWS(), w, none, w * (1 - w)),
        "CUBO(n)": (bounds.CUBO(N), c, -c, (N - 1) * c - N * c**2),
    }


@pytest.mark.parametrize("name", weights(torch.zeros(K)))
def test_weights(name, log_w):
    assert name in rows()
    bound, model, live, frozen = weights(log_w)[name]
    torch.testing.assert_close(bound.slope(log_w), model)
    torch.testing.assert_close(bound.guide.path(log_w) * torch.ones(K), live)
    torch.testing.assert_close(bound.guide.path(log_w, 1.0), frozen)
    density = -log_w.softmax(0) if name == "RWS()" else live
    torch.testing.assert_close(bound.guide.density(log_w), density)
