"""The mean gradient under each handler is the plain one; but for positions taken for independent.

A loss of outputs of undrawn weights against the same loss with drawn ones: means of many gradients,
with z-scores at a fixed seed.
"""

import functools

import pytest
import torch
from torch.nn import functional as F

from pyro_dsvi.lazy import RULES, Diagonal, Plan, undrawn
from tests.lazy.test_layers import FLIPPED, LOCAL, normal

DRAWS = 500
FLIPPED_KERNELS = Plan("local_reparameterization()", shared="flipout")
MARGINAL = Plan("local_reparameterization()", shared="marginal")
X, SIGNALS, IMAGES = normal(6, 3), normal(5, 2, 9), normal(4, 2, 6, 7)


def mlp(x, w, b, v):
    hidden = F.relu(F.linear(x, w, b))
    return F.softplus(hidden @ v.mT).square().sum()


def particles(x, w, b, v):
    hidden = torch.tanh(x @ w.mT + b.unsqueeze(-2))
    return F.softplus(hidden @ v.mT).square().sum() / len(w)


def strided(x, w, b, v):
    """Strides, dilation, padding by zeros, groups; then the mean over positions."""
    hidden = F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    out = F.conv2d(F.relu(hidden), v, groups=2, padding="same").mean((-2, -1))
    return F.softplus(3 * out).square().sum()


def circular(x, w, b, v):
    hidden = F.conv1d(F.pad(x, (1, 1), mode="circular"), w, b)
    out = F.conv_transpose1d(F.pad(hidden.tanh(), (1, 1), mode="reflect"), v, stride=2)
    return F.softplus(3 * out.mean(-1)).square().sum()


PROGRAMS = {
    "mlp": (mlp, X, [(4, 3), (4,), (1, 4)]),
    "particles": (particles, X, [(4, 3), (4,), (1, 4)]),
    "strided": (strided, IMAGES, [(4, 2, 3, 2), (4,), (2, 2, 3, 3)]),
    "circular": (circular, SIGNALS, [(3, 2, 3), (3,), (3, 2, 2)]),
}


def gradients(program, x, shapes, plan, seed):
    """Of the means and of the scales of each weight, shape ``[draws, number]``, by groups."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1)
    locs, scales = [], []
    for shape in shapes:
        loc = torch.randn(shape, generator=generator, dtype=torch.float64) / len(shapes)
        locs.append(loc.requires_grad_())
        scales.append(torch.full(shape, 0.4, dtype=torch.float64).requires_grad_())
    rows = []
    for _ in range(DRAWS if program is not particles else DRAWS // 3):
        laws = [Diagonal(*pair) for pair in zip(locs, scales, strict=True)]
        if program is particles:
            laws = [Diagonal(*(p.expand(3, 1, *p.shape) for p in (w.loc, w.scale))) for w in laws]
        if plan is None:
            weights = [law.draw() for law in laws]
        else:
            weights = [undrawn(f"w{i}", law, plan, RULES) for i, law in enumerate(laws)]
        found = torch.autograd.grad(program(x, *weights), [*locs, *scales])
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@functools.cache
def drawn(name):
    """The gradients with drawn weights."""
    return gradients(*PROGRAMS[name], None, 2)


def z_scores(name, plan):
    """Of the differences between the handler's mean gradient and the plain one, by element."""
    program, x, shapes = PROGRAMS[name]
    ours, plain = gradients(program, x, shapes, plan, 1), drawn(name)
    gap = ours.mean(0) - plain.mean(0)
    error = (ours.var(0) / len(ours) + plain.var(0) / len(plain)).sqrt()
    return gap / error, ours.mean(0), plain.mean(0)


@pytest.mark.parametrize("plan", [LOCAL, FLIPPED, FLIPPED_KERNELS], ids=["local", "flipout", "mix"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_mean_gradient_is_the_plain_one(name, plan):
    if plan is FLIPPED_KERNELS and name in ("mlp", "particles"):
        return  # the same as local
    z, _, plain = z_scores(name, plan)
    assert plain.abs().max() > 0.1  # there is something to compare
    # The largest of some sixty standard normal numbers is beyond 4.5 once in two thousand times.
    assert z.abs().max() < 4.5


def test_positions_taken_for_independent_are_biased():
    """The same test fails; what the documentation says of the size of the bias is measured."""
    z, ours, plain = z_scores("strided", MARGINAL)
    assert z.abs().max() > 6
    scales = len(plain) // 2
    assert 0.25 < ours[scales:].norm() / plain[scales:].norm() < 0.5
