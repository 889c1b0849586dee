"""A compiler that believes its first recording: what a careful one is to be told apart from.

It records loss and gradients of the third step by ``make_fx`` and replays the graph ever after.
Arguments are inputs, and so is the content of every tensor it saw; nothing else is looked at again:
no number, no shape, no mode, no side effect.
"""

from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_dsvi.passes.freeze import leaves_behind


class _Unasked(TorchDispatchMode):
    """Lets a program read a tensor's value, where the recorder would object."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        if reads & set(func.tags):
            with disable_proxy_modes_tracing():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class GullibleSVI(SVI):
    """``pyro.infer.SVI`` that replays its third step."""

    def __init__(self, model: Any, guide: Any, optim: Any, loss: Any) -> None:
        super().__init__(model, guide, optim, loss)
        self.objective = loss
        self.taken = 0
        self.graph: Any = None
        self.leaves: list[torch.Tensor] = []

    def step(self, *args: Any) -> float:
        self.taken += 1
        if self.taken == 3:
            self.graph = self._record(args)
        if self.graph is None:
            return super().step(*args)
        with torch.no_grad():
            loss, *gradients = self.graph(*tree_leaves(args))
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient.clone()
        self.optim(set(self.leaves))
        pyro.infer.util.zero_grads(set(self.leaves))
        return loss.item()

    def _record(self, args: tuple[Any, ...]) -> Any:
        state = torch.get_rng_state()

        def step(*_: Any) -> list[torch.Tensor]:
            with _Unasked():
                loss = self.objective.differentiable_loss(self.model, self.guide, *args)
                self.leaves = list(leaves_behind([loss]).values())
                return [loss, *torch.autograd.grad(loss, self.leaves)]

        leaves = tree_leaves(args)
        graph = make_fx(step, tracing_mode="real")(*leaves)
        torch.set_rng_state(state)
        return graph
