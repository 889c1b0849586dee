r"""What the noise's way does to a gradient's variance, in closed form and on a network for digits.

.. math:: \operatorname{Var} \frac N M \sum_m L_m = \frac{N^2}{M} \operatorname{Var} L_m +
    N^2 \frac{M - 1}{M} \operatorname{Cov}(L_i, L_j)

The exact tests put every outcome of the noise in: nodes of Gauss and Hermite's rule, which has no
error on polynomials, for the Gaussian numbers, and each pattern of the signs.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.programs.noisy_network import AROUND, FLIPOUT, LOCAL, PLAIN, SEPARATE
from pyro_dsvi.lazy import noise

N = 7
Costs = Callable[[Tensor], Tensor]


class Law:
    """The exact law of a gradient: every outcome of the noise, with its probability."""

    def __init__(self, monkeypatch, nodes: int = 3) -> None:
        x, w = np.polynomial.hermite_e.hermegauss(nodes)
        self._nodes = list(zip(x.tolist(), (w / w.sum()).tolist(), strict=True))
        self._plan: list[tuple[str, tuple[int, ...]]] | None = None
        self._given: list[Tensor] = []
        monkeypatch.setattr(noise, "standard_normal", lambda shape, like: self._next("n", shape))
        monkeypatch.setattr(noise, "signs", lambda shape, like: self._next("s", shape))
        monkeypatch.setattr(
            torch.distributions.normal,
            "_standard_normal",
            lambda shape, dtype, device: self._next("n", shape),
        )

    def _next(self, kind: str, shape: Sequence[int]) -> Tensor:
        if self._given:
            return self._given.pop(0)
        self._asked.append((kind, tuple(shape)))
        return torch.ones(tuple(shape), dtype=torch.float64)

    def moments(self, gradient: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and variance of what is computed from the noise."""
        self._asked: list[tuple[str, tuple[int, ...]]] = []
        gradient()
        asked = list(self._asked)
        outcomes = [
            self._nodes if kind == "n" else [(-1.0, 0.5), (1.0, 0.5)]
            for kind, shape in asked
            for _ in range(math.prod(shape))
        ]
        sizes = [math.prod(shape) for _, shape in asked]
        found, weights = [], []
        for outcome in itertools.product(*outcomes):
            numbers = torch.tensor([x for x, _ in outcome], dtype=torch.float64).split(sizes)
            self._given = [x.reshape(s) for x, (_, s) in zip(numbers, asked, strict=True)]
            found.append(gradient())
            assert not self._given  # all of it was used
            weights.append(math.prod(p for _, p in outcome))
        draws, probability = torch.stack(found), torch.tensor(weights, dtype=torch.float64)
        mean = probability @ draws
        return mean, probability @ (draws - mean).square()


def gradient(way: str, a: Tensor, cost: Costs, mu: Sequence[float], sigma: Sequence[float]):
    """A function that estimates the gradient in the means and the scales, in this order."""
    loc, scale = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (mu, sigma))

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros_like(loc), 1.0).to_event(2))
        outputs = torch.nn.functional.linear(a, w).squeeze(-1)
        with pyro.plate("data", N, subsample=torch.arange(len(a))):
            pyro.factor("cost", cost(outputs))

    def guide():
        pyro.sample("w", dist.Normal(loc, scale).to_event(2))

    elbo = dsvi.PathwiseELBO(analytic_kl=True, max_plate_nesting=1)

    def estimate() -> Tensor:
        with AROUND[way]():
            loss = elbo.differentiable_loss(model, guide)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [loc, scale])])

    return estimate


A = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9]], dtype=torch.float64)
C = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
MU, SIGMA = (0.4, -0.8), (0.3, 0.6)


def linear(way: str, size: int):
    c = C[:size]
    return gradient(way, A[:size], lambda b: c * b, MU, SIGMA)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_of_a_linear_cost_in_closed_form(size, monkeypatch):
    """Costs c b with b = a w: one draw shares ε, flipout its size, the others nothing."""
    a, c, scale = A[:size], C[:size, None], torch.tensor(SIGMA, dtype=torch.float64)
    spread = (a.square() @ scale.square()).sqrt()[:, None]
    variance = {
        PLAIN: (c * a).sum(0).square(),
        FLIPOUT: (c * a).square().sum(0),
        SEPARATE: (c * a).square().sum(0),
        LOCAL: (c * a.square() * scale / spread).square().sum(0),
    }
    law = Law(monkeypatch)
    for way, expected in variance.items():
        if size == 3 and way in (FLIPOUT, SEPARATE):
            continue  # thousands of outcomes, and nothing new
        mean, found = law.moments(linear(way, size))
        at_rest = (N / size) * (c * a).sum(0) - torch.tensor(MU, dtype=torch.float64)
        torch.testing.assert_close(mean[:2], -at_rest, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mean[2:], scale - 1 / scale, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[:2], torch.zeros_like(at_rest), rtol=0, atol=1e-10)
        torch.testing.assert_close(found[2:], (N / size) ** 2 * expected, rtol=1e-10, atol=1e-10)


def test_one_row_gains_what_the_output_does_not_see(monkeypatch):
    """The law of total variance: of the noise in the gradient, only what b tells is left."""
    law = Law(monkeypatch)
    _, plain = law.moments(linear(PLAIN, 1))
    _, local = law.moments(linear(LOCAL, 1))
    seen = (A[0] * torch.tensor(SIGMA, dtype=torch.float64)).square()
    torch.testing.assert_close(local[2:] / plain[2:], seen / seen.sum(), rtol=1e-10, atol=1e-10)


MEAN, SCALE = 0.8, 0.5


def quadratic(way: str, size: int):
    """Costs b² / 2 of one weight at rows that are all 1: the gradient's noise is a polynomial."""
    return gradient(
        way, torch.ones(size, 1, dtype=torch.float64), lambda b: -b.square() / 2, [MEAN], [SCALE]
    )


# Var L_m and Cov(L_i, L_j) of the gradient of (μ + σ ε)² / 2 in μ, and of that in σ, which is
# μ ε + σ ε²: flipout gives rows signs of their own, so that of the common draw ε² alone is left.
EVEN = 2 * SCALE**2
ALONE = torch.tensor([SCALE**2, MEAN**2 + EVEN], dtype=torch.float64)
COMMON = {
    PLAIN: ALONE,
    FLIPOUT: torch.tensor([0.0, EVEN], dtype=torch.float64),
    SEPARATE: torch.zeros(2, dtype=torch.float64),
    LOCAL: torch.zeros(2, dtype=torch.float64),
}


@pytest.mark.parametrize("way", AROUND)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_two_terms_of_a_quadratic_cost_are_exact(way, size, monkeypatch):
    _, found = Law(monkeypatch).moments(quadratic(way, size))
    expected = N**2 / size * ALONE + N**2 * (size - 1) / size * COMMON[way]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    from benchmarks.noise import Digits

    return Digits()


@pytest.mark.parametrize(("size", "repeats"), [(1, 200), (128, 50)])
def test_local_noise_keeps_to_its_claims_on_digits(digits, size, repeats):
    """At least 15 and 100 times less at M = 128, and 5 times less in scales for a single row."""
    from benchmarks.noise import AT_LEAST

    plain, local = (
        digits.spread(way, size, repeats, seed=1 + i) for i, way in enumerate((PLAIN, LOCAL))
    )
    for parameter, limit in AT_LEAST[size].items():
        assert plain[parameter].over(local[parameter]).low > limit
