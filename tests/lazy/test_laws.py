"""Laws beyond independent elements: outputs have their mean and covariance, exactly."""

import pytest
import torch
from torch.nn import functional as F

from pyro_dsvi.lazy import Factored, Kronecker, Plan
from tests.lazy.moments import assert_exact
from tests.lazy.test_layers import IMAGES, SEQUENCE, X, normal

LOCAL = Plan("local_reparameterization()")


def lower(*shape):
    return normal(*shape).tril()


def rows(*shape):
    """Full covariance within rows."""
    return Factored(normal(*shape), lower(*shape, shape[-1]))


def low_rank(*shape, rank=2):
    """Low rank plus diagonal within rows."""
    return Factored(normal(*shape), normal(*shape, rank), normal(*shape).square())


MATRIX = Kronecker(normal(5, 3), lower(5, 5), lower(3, 3))
PARTICLES = Kronecker(
    *(x.expand(3, 1, *x.shape) for x in (MATRIX.loc, MATRIX.row_factor, MATRIX.column_factor))
)
LAYERS = {
    "rows": (lambda w: F.linear(X, w), rows(5, 3)),
    "rows, twice": (lambda w: torch.cat([X @ w.T, X.cos() @ w.T], -1), rows(5, 3)),
    "rows, positions": (lambda w: F.linear(SEQUENCE, w), rows(5, 3)),
    "rows, scaled and shifted": (lambda w: X @ (w * normal_like(w) + 2).T, rows(5, 3)),
    "rows, a part": (lambda w: X[:, :2] @ w[1:3, 1:].T, rows(5, 3)),
    "one row in full": (lambda w: F.linear(X, w), rows(1, 3)),
    "rows of kernels": (lambda w: F.conv2d(IMAGES, w.view(2, 4, 2, 2)), rows(2, 16)),
    "rows of low rank": (lambda w: F.linear(X, w), low_rank(5, 3)),
    "a layer of low rank": (lambda w: F.linear(X, w.view(5, 3)), low_rank(15)),
    "a layer of low rank, positions": (lambda w: F.linear(SEQUENCE, w.view(5, 3)), low_rank(15)),
    "kernels of low rank": (lambda w: F.conv2d(IMAGES, w.view(2, 4, 2, 2)), low_rank(32)),
    "kernels of low rank, one position": (
        lambda w: F.conv2d(IMAGES, w.view(2, 4, 5, 6)),
        low_rank(240),
    ),
    "two layers of low rank": (
        lambda w: torch.cat([X @ w[:15].view(5, 3).T, F.linear(X.cos(), w[15:].view(2, 3))], -1),
        low_rank(21),
    ),
    "layer and bias of low rank": (
        lambda w: F.linear(X, w[:15].view(5, 3), w[15:]),
        low_rank(20),
    ),
    "bias in full": (lambda b: F.linear(X, X[:3], b), rows(3)),
    "matrix normal": (lambda w: F.linear(X, w), MATRIX),
    "matrix normal, twice": (lambda w: torch.cat([X @ w.T, X.cos() @ w.T], -1), MATRIX),
    "matrix normal, transposed": (lambda w: normal_like(X, 5) @ w, MATRIX),
    "matrix normal, positions": (lambda w: F.linear(SEQUENCE, w), MATRIX),
    "matrix normal, particles": (lambda w: (X @ w.mT).reshape(12, 5), PARTICLES),
}


def normal_like(x, columns=None):
    """Numbers that are the same at every call."""
    shape = tuple(x.shape) if columns is None else (len(x), columns)
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).cos().reshape(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_have_the_law_of_drawn_weights(name, monkeypatch):
    layer, w = LAYERS[name]
    assert_exact(monkeypatch, layer, [w], LOCAL)
