"""Layers of undrawn weights: every example's outputs have the law that drawn weights give them."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.functional import linear

from pyro_dsvi.lazy import Diagonal, Plan
from tests.lazy.moments import assert_exact

PARTICLES = 3
LOCAL = Plan("local_reparameterization()")
FLIPPED = Plan("flipout()", "flipout", "flipout")
_RANDOM = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=_RANDOM, dtype=torch.float64)


def law(*shape):
    return Diagonal(normal(*shape), 0.1 + normal(*shape).abs())


def copies(*shape):
    """A law for each of several particles, as Pyro expands it."""
    one, lead = law(*shape), (PARTICLES, 1, *shape)
    return Diagonal(one.loc.expand(lead), one.scale.expand(lead))


def rows(outputs):
    """Particles and data as examples."""
    return outputs.reshape(PARTICLES * len(X), -1)


X, X1, SEQUENCE = normal(4, 3), normal(3), normal(2, 4, 3)
IMAGES, ROWS, VOLUMES = normal(3, 4, 5, 6), normal(3, 4, 7), normal(2, 2, 3, 4, 3)
INDEX, TEXT = torch.tensor([1, 0, 1, 4]), torch.tensor([[1, 1, 0], [2, 1, 2]])
W, V, B = law(5, 3), law(3, 5), law(5)

# Weights to outputs, by name; examples come first.
LAYERS = {
    "linear": (lambda w: F.linear(X, w), [W]),
    "linear, imported by name": (lambda w: linear(X, w), [W]),
    "linear with bias": (lambda w, b: F.linear(X, w, b), [W, B]),
    "linear, plain weight": (lambda b: F.linear(X, W.loc, b), [B]),
    "linear, plain bias": (lambda w: F.linear(X, w, B.loc), [W]),
    "linear, positions": (lambda w, b: F.linear(SEQUENCE, w, b), [W, B]),
    "one datum": (lambda w, b: F.linear(X1, w, b).unsqueeze(0), [W, B]),
    "@": (lambda w: X @ w, [V]),
    "@ transposed": (lambda w, b: X @ w.T + b, [W, B]),
    "@ from the left": (lambda w: (w @ X.T).T, [W]),
    "@ vector": (lambda w: (X @ w).unsqueeze(-1), [law(3)]),
    "vector @": (lambda w: (w @ X.T).unsqueeze(-1), [law(3)]),
    "@ one datum": (lambda w: (X1 @ w).unsqueeze(0), [V]),
    "matmul, positions": (lambda w: torch.matmul(SEQUENCE, w), [V]),
    "mm": (lambda w: torch.mm(X, w), [V]),
    "mv": (lambda w: torch.mv(X, w).unsqueeze(-1), [law(3)]),
    "addmm": (lambda w: torch.addmm(B.loc, X, w, beta=2, alpha=3), [V]),
    "addmm, bias": (lambda w, b: torch.addmm(b, X, w), [V, B]),
    "einsum": (lambda w: torch.einsum("bi,oi->bo", X, w), [W]),
    "einsum, implicit": (lambda w: torch.einsum("bi,io", X, w), [V]),
    "einsum, weight first": (lambda w: torch.einsum("io, bi -> bo", w, X), [V]),
    "einsum, heads": (lambda w: torch.einsum("bi,ihd->bhd", X, w), [law(3, 2, 2)]),
    "einsum, positions": (lambda w: torch.einsum("bti,oi->bot", SEQUENCE, w), [W]),
    "einsum, two inputs": (lambda w: torch.einsum("bij,oij->bo", SEQUENCE, w), [law(2, 4, 3)]),
    "einsum, copies": (
        lambda w: torch.einsum("tbi,toi->bto", SEQUENCE.transpose(0, 1), w),
        [law(4, 5, 3)],
    ),
    "bilinear": (lambda w, b: F.bilinear(X, X.cos(), w, b), [law(2, 3, 3), law(2)]),
    "embedding": (lambda w: F.embedding(INDEX, w), [W]),
    "embedding, a word again": (lambda w: F.embedding(TEXT, w), [W]),
    "reshaped, scaled, shifted": (
        lambda w: X @ (2 - w.reshape(5, 3).t() / 3 * B.loc) + 1,
        [law(15)],
    ),
    "constants per element": (lambda w: X @ (w * V.loc), [V]),
    "a slice": (lambda w: X @ w[:, 1:3], [V]),
    "two slices": (lambda w: torch.cat([X @ w[:, ::2], X @ w[:, 1::2]], -1), [V]),
    "split": (lambda w: torch.cat([F.linear(X, p) for p in w.split([2, 3])], -1), [W]),
    "repeated for each of the outer": (
        lambda w: torch.bmm(SEQUENCE, w.expand(2, 3, 5)),
        [V],
    ),
    "particles, data shared": (
        lambda w, b: rows(X @ w.mT + b.unsqueeze(-2)),
        [copies(5, 3), copies(5)],
    ),
    "particles, data of their own": (
        lambda w, b: rows(torch.stack([X, 2 * X, X.cos()]).unsqueeze(1) @ w.mT + b.unsqueeze(-2)),
        [copies(5, 3), copies(5)],
    ),
    "particles, squeezed": (
        lambda w: rows(
            torch.einsum("pbi,poi->pbo", torch.stack([X, 2 * X, X.cos()]), w.squeeze(1))
        ),
        [copies(5, 3)],
    ),
    "particles, positions": (
        lambda w: (torch.stack([SEQUENCE] * 3) @ w.mT).reshape(6, -1),
        [copies(5, 3)],
    ),
    "value in attention": (
        lambda w, b: F.multi_head_attention_forward(
            *[SEQUENCE.transpose(0, 1)] * 3,
            3,
            1,
            None,
            torch.cat([torch.zeros(6, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]),
            None,
            None,
            False,
            0.0,
            torch.eye(3, dtype=torch.float64),
            b,
            use_separate_proj_weight=True,
            q_proj_weight=V.loc[:, :3],
            k_proj_weight=V.loc[:, 1:4],
            v_proj_weight=w,
        )[0].transpose(0, 1),
        [law(3, 3), law(3)],
    ),
}
CONVOLUTIONS = {
    "1d": (lambda w, b: F.conv1d(ROWS, w, b, stride=2, padding=1), [law(6, 4, 3), law(6)]),
    "2d": (lambda w: F.conv2d(IMAGES, w), [law(2, 4, 2, 3)]),
    "2d, all of it": (
        lambda w, b: F.conv2d(
            IMAGES, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2
        ),
        [law(4, 2, 2, 3), law(4)],
    ),
    "2d, same": (lambda w: F.conv2d(IMAGES, w, padding="same"), [law(2, 4, 3, 3)]),
    "2d, valid": (lambda w: F.conv2d(IMAGES, w, padding="valid"), [law(2, 4, 3, 3)]),
    "2d, circular": (
        lambda w: F.conv2d(F.pad(IMAGES, (1, 1, 1, 1), mode="circular"), w),
        [law(2, 4, 3, 3)],
    ),
    "2d, as large as the image": (lambda w, b: F.conv2d(IMAGES, w, b), [law(7, 4, 5, 6), law(7)]),
    "2d, one image": (lambda w, b: F.conv2d(IMAGES[0], w, b)[None], [law(2, 4, 2, 3), law(2)]),
    "2d, plain kernel": (
        lambda b: F.conv2d(IMAGES, IMAGES[:2, :, :2, :2], b),
        [law(2)],
    ),
    "3d": (lambda w: F.conv3d(VOLUMES, w, padding=1, stride=2), [law(3, 2, 2, 2, 2)]),
    "1d, transposed": (
        lambda w, b: F.conv_transpose1d(ROWS, w, b, stride=2, output_padding=1),
        [law(4, 3, 3), law(3)],
    ),
    "2d, transposed": (
        lambda w: F.conv_transpose2d(IMAGES, w, None, 2, (1, 0), 1, 2, (1, 2)),
        [law(4, 2, 3, 2)],
    ),
    "3d, transposed": (lambda w: F.conv_transpose3d(VOLUMES, w), [law(2, 2, 2, 1, 2)]),
}
EVERY = {**LAYERS, **{f"convolution, {name}": case for name, case in CONVOLUTIONS.items()}}


@pytest.mark.parametrize("name", EVERY)
def test_local_outputs_have_the_law_of_drawn_weights(name, monkeypatch):
    layer, laws = EVERY[name]
    assert_exact(monkeypatch, layer, laws, LOCAL)


@pytest.mark.parametrize("name", EVERY)
def test_flipped_outputs_have_the_law_of_drawn_weights(name, monkeypatch):
    layer, laws = EVERY[name]
    assert_exact(monkeypatch, layer, laws, FLIPPED, apart=False)
