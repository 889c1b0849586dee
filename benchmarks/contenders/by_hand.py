"""Plain torch, as somebody writes it who knows the model: no program, no trace, no dispatch.

The eager one is a loss, ``backward`` and torch's Adam, fused or as torch has it by default.  The
compiled one is a single function of parameters, moments and state, gradient and update included,
under ``torch.compile``.
"""

from typing import Any

import numpy as np
import torch

from benchmarks.contenders.runner import RATE, Runner
from benchmarks.problem import Problem, Tensors

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class Eager(Runner):
    """Loss, ``backward``, one Adam over all parameters.

    Args:
        problem: the problem.
        particles: draws of the guide in a step.
        device: where to run.
        rate: Adam's step size.
        fused: as for ``torch.optim.Adam``; torch itself chooses the slower way on a CPU.
    """

    def __init__(
        self,
        problem: Problem,
        particles: int,
        device: str = "cpu",
        rate: float = RATE,
        *,
        fused: bool | None = True,
    ) -> None:
        written = problem.by_hand(particles, device)
        self.parameters, self.state, self.loss = written.parameters, written.state, written.loss
        self._adam = torch.optim.Adam(self.parameters.values(), lr=rate, fused=fused)

    def step(self) -> Any:
        self._adam.zero_grad()
        surrogate, value, self.state = self.loss(self.parameters, self.state)
        surrogate.backward()
        self._adam.step()
        return value

    @torch.no_grad()
    def losses(self, number: int) -> np.ndarray:
        return np.array([self.loss(self.parameters, self.state)[1].item() for _ in range(number)])


class Compiled(Eager):
    """The whole step as one function under ``torch.compile``; arguments as for :class:`Eager`."""

    def __init__(
        self, problem: Problem, particles: int, device: str = "cpu", rate: float = RATE
    ) -> None:
        super().__init__(problem, particles, device, rate)
        self.parameters = {name: p.detach() for name, p in self.parameters.items()}
        self._first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._count = torch.zeros((), device=device)
        loss = self.loss

        def step(parameters: Tensors, state, first, second, count):
            def told(parameters):
                surrogate, value, after = loss(parameters, state)
                return surrogate, (value, after)

            gradients, (value, after) = torch.func.grad(told, has_aux=True)(parameters)
            count += 1
            width = rate / (1 - _FIRST**count)
            spread = (1 - _SECOND**count).sqrt()
            for name, gradient in gradients.items():
                first[name].lerp_(gradient, 1 - _FIRST)
                second[name].lerp_(gradient.square(), 1 - _SECOND)
                parameters[name] -= width * first[name] / (second[name].sqrt() / spread + _TINY)
            return value, after

        # torch's own draws: inductor's cost several times as much on a CPU
        options: dict[str, Any] = {"fallback_random": device == "cpu"}
        self._step = torch.compile(step, fullgraph=True, options=options)

    def step(self) -> Any:
        value, self.state = self._step(
            self.parameters, self.state, self._first, self._second, self._count
        )
        return value
