"""What a step yields: a loss, and the gradient at each parameter that it reached."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Outcome:
    """Loss and gradients of one step.

    Attributes:
        loss: the negative bound in nats, a scalar without gradient.
        leaves: the leaf tensors that the surrogate reaches.
        gradients: the loss's gradient at each of them, or None.
        parameters: the unconstrained parameters that the programs and baselines named.
        replayed: whether no program was run for it.
    """

    loss: Tensor
    leaves: Sequence[Tensor] = ()
    gradients: Sequence[Tensor | None] = ()
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    replayed: bool = False

    def accumulate(self) -> None:
        """Add the gradients to those of the leaves, as ``backward`` does, hooks included."""
        for leaf, gradient in zip(self.leaves, self.gradients, strict=True):
            if gradient is None:
                continue
            before, after = hooks(leaf)
            for hook in before:
                replaced = hook(gradient)
                gradient = gradient if replaced is None else replaced
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
            for hook in after:
                hook(leaf)

    def differentiable(self) -> Tensor:
        """The loss as a scalar whose ``backward`` yields the gradients."""
        pairs = [
            (leaf, gradient)
            for leaf, gradient in zip(self.leaves, self.gradients, strict=True)
            if gradient is not None
        ]
        if not pairs:
            return self.loss
        leaves, gradients = zip(*pairs, strict=True)
        return _Known.apply(self.loss, gradients, *leaves)


def hooks(leaf: Tensor) -> tuple[Sequence[Any], Sequence[Any]]:
    """The functions that a leaf's gradient passes before it is accumulated, and those told after.

    They are the user's Python, which no graph has: whoever accumulates calls them.
    """
    before: Any = leaf._backward_hooks
    after: Any = leaf._post_accumulate_grad_hooks
    return list(before.values()) if before else (), list(after.values()) if after else ()


@contextmanager
def without_hooks(leaves: Sequence[Any]) -> Iterator[None]:
    """Gradients as they are before the leaves' hooks."""
    hooked = [(leaf, leaf._backward_hooks) for leaf in leaves if leaf._backward_hooks]
    for leaf, _ in hooked:
        leaf._backward_hooks = None
    try:
        yield
    finally:
        for leaf, functions in hooked:
            leaf._backward_hooks = functions


class _Known(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx, loss, gradients, *leaves):
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer):
        return None, None, *(gradient * outer for gradient in ctx.saved_tensors)
