"""The law of a layer's outputs, exactly: outputs are linear in the noise, which is ours to choose.

A layer that is linear in its Gaussian weights w has outputs b = J w, so an example's outputs have
mean J E[w] and covariance J S J'.  An undrawn weight gives outputs m + L e with standard noise e,
so L L' must be that covariance, and none between examples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from pyro_dsvi.lazy import RULES, Diagonal, Factored, Kronecker, Law, Plan, noise, undrawn

Layer = Callable[..., Tensor]  # weights to outputs [example, ...]


class Noise:
    """Stands in for the source of noise: gives zeros, or what it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.given: list[Tensor] | None = None
        self.flips = torch.Generator().manual_seed(0)
        monkeypatch.setattr(noise, "standard_normal", self._normal)
        monkeypatch.setattr(noise, "signs", self._signs)

    def _normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        shape = tuple(shape)
        if self.given is None:
            self.shapes.append(shape)
            return torch.zeros(shape, dtype=like.dtype)
        return self.given.pop(0).reshape(shape)

    def _signs(self, shape: Sequence[int], like: Tensor) -> Tensor:
        heads = torch.randint(0, 2, tuple(shape), generator=self.flips)
        return (2 * heads - 1).to(like.dtype)

    def mean_and_factor(self, outputs: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean of shape ``[example, k]`` and factor ``[example, k, noise]`` of outputs."""
        self.shapes, self.given = [], None
        self.flips.manual_seed(0)
        mean = outputs()
        sizes = [torch.Size(shape).numel() for shape in self.shapes]

        def at(epsilon: Tensor) -> Tensor:
            self.given = list(epsilon.split(sizes))
            self.flips.manual_seed(0)
            return outputs()

        factor: Any = jacobian(at, torch.zeros(sum(sizes), dtype=mean.dtype))
        self.given = None
        return mean.flatten(1), factor.flatten(1, -2)


def undrawn_all(laws: Sequence[Law], plan: Plan) -> list[Tensor]:
    """A tensor for each law."""
    return [undrawn(f"w{i}", law, plan, RULES) for i, law in enumerate(laws)]


def expected(layer: Layer, laws: Sequence[Law]) -> tuple[Tensor, Tensor]:
    """Mean ``[example, k]`` and covariance ``[example, k, example, k]`` with drawn weights."""
    locs = tuple(law.loc.detach() for law in laws)
    mean = layer(*locs)
    covariance = torch.zeros((), dtype=mean.dtype)
    jacobians: Any = jacobian(layer, locs)
    for law, slope in zip(laws, jacobians, strict=True):
        j = slope.reshape(mean.numel(), -1)
        covariance = covariance + j @ covariance_of(law) @ j.mT
    mean = mean.flatten(1)
    return mean, covariance.reshape(*mean.shape, *mean.shape)


def covariance_of(law: Law) -> Tensor:
    """Covariance between all elements of a weight, by the law's definition."""
    if isinstance(law, Diagonal):
        return law.scale.detach().square().flatten().diag()
    if isinstance(law, Kronecker):
        pairs = zip(
            law.row_factor.reshape(-1, *law.row_factor.shape[-2:]),
            law.column_factor.reshape(-1, *law.column_factor.shape[-2:]),
            strict=True,
        )
        return torch.block_diag(*[torch.kron(u @ u.mT, v @ v.mT) for u, v in pairs])
    assert isinstance(law, Factored)
    rows = law.factor.reshape(-1, *law.factor.shape[-2:])
    own = torch.zeros_like(law.loc) if law.diagonal is None else law.diagonal
    return torch.block_diag(*rows @ rows.mT) + own.flatten().diag()


def assert_exact(
    monkeypatch,
    layer: Layer,
    laws: Sequence[Law],
    plan: Plan,
    *,
    apart: bool = True,
) -> None:
    """Each example's outputs have the law that drawn weights give them, and share no noise.

    Args:
        monkeypatch: pytest's.
        layer: weights to outputs, linear in the weights.
        laws: of the weights.
        plan: the plan.
        apart: whether examples are to share no noise at all.
    """
    mean, covariance = expected(layer, laws)
    source = Noise(monkeypatch)
    made: list[Any] = []

    def outputs() -> Tensor:
        made[:] = undrawn_all(laws, plan)
        return layer(*made)

    found, factor = source.mean_and_factor(outputs)
    assert not any(w.root.is_drawn for w in made)
    torch.testing.assert_close(found, mean, rtol=1e-10, atol=1e-10)
    ours = torch.einsum("aix,bjx->aibj", factor, factor)
    for e in range(len(mean)):
        torch.testing.assert_close(ours[e, :, e], covariance[e, :, e], rtol=1e-10, atol=1e-10)
        assert covariance[e, :, e].abs().max() > 1e-3  # there is something to compare
        if apart:
            ours[e, :, e] = 0
    if apart:
        assert ours.abs().max() == 0
