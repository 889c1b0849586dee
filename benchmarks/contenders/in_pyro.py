"""``pyro.infer.SVI`` with a loss of Pyro's or of ours, and ``dsvi.CompiledSVI``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO, SVI

import pyro_dsvi as dsvi
from benchmarks.contenders.runner import RATE, Runner
from benchmarks.problem import Make, Program


class Stepwise(Runner):
    """Pyro's ``SVI`` on one program under one loss, with a param store of its own.

    Args:
        make: builds the program; called with the random generators seeded.
        loss: the loss.
        validation: whether Pyro validates.
        seed: of the program's data and first parameters.
        rate: Adam's step size.
        around: a further context for each step, or None.
        wrap: makes another model and guide of these two, or None.
        optimizer: Adam, Pyro's or ours.
    """

    def __init__(
        self,
        make: Make,
        loss: ELBO,
        *,
        validation: bool = False,
        seed: int = 0,
        rate: float = RATE,
        around: Callable[[], Any] | None = None,
        wrap: Callable[[Any, Any], Any] | None = None,
        optimizer: Callable[[dict[str, float]], Any] = pyro.optim.Adam,
    ) -> None:
        self.loss = loss
        self.validation = validation
        self._handler = around
        self._store: Any = {"params": {}, "constraints": {}}
        with self.around():
            pyro.set_rng_seed(seed)
            self.program = make()
            if wrap is not None:
                pair = wrap(self.program.model, self.program.guide)
                self.program = Program(*pair, self.program.args)
            self._svi = self._inference(optimizer({"lr": rate}))

    def _inference(self, optimizer: Any) -> SVI:
        return SVI(self.program.model, self.program.guide, optimizer, self.loss)

    @contextmanager
    def around(self) -> Iterator[None]:
        """With its own parameters in the store, and validation as it wants it."""
        with pyro.get_param_store().scope(self._store), pyro.validation_enabled(self.validation):
            yield

    def step(self) -> Any:
        """One step of ``SVI``."""
        if self._handler is None:
            return self._svi.step(*self.program.args)
        with self._handler():
            return self._svi.step(*self.program.args)

    def losses(self, number: int) -> np.ndarray:
        with self.around():
            return np.array(
                [self._svi.evaluate_loss(*self.program.args) for _ in range(number)], dtype=float
            )

    def gradients(self, seeds: range) -> torch.Tensor:
        """The gradient of every parameter at the present ones, a row for each seed."""
        rows = []
        with self.around():
            for seed in seeds:
                pyro.set_rng_seed(seed)
                with pyro.poutine.trace(param_only=True) as seen:
                    self.loss.loss_and_grads(
                        self.program.model, self.program.guide, *self.program.args
                    )
                names = sorted(n for n, s in seen.trace.nodes.items() if s["type"] == "param")
                parameters = [seen.trace.nodes[n]["value"].unconstrained() for n in names]
                rows.append(torch.cat([p.grad.flatten() for p in parameters]))
                for parameter in parameters:
                    parameter.grad = None
        return torch.stack(rows)


class Compiled(Stepwise):
    """``dsvi.CompiledSVI``: the step recorded once and replayed.

    Args:
        make: builds the program; called with the random generators seeded.
        loss: an objective of ours.
        unrolled: steps that one call of ``run`` makes; 1 for ``step``.
        options: as for :class:`Stepwise`.
    """

    def __init__(self, make: Make, loss: ELBO, *, unrolled: int = 1, **options: Any) -> None:
        super().__init__(make, loss, **options)
        self.steps = unrolled

    def _inference(self, optimizer: Any) -> Any:
        program = self.program
        return dsvi.CompiledSVI(program.model, program.guide, optimizer, self.loss)

    def step(self) -> Any:
        if self.steps == 1:
            return self._svi.step(*self.program.args)
        run: Any = self._svi.run
        return run(self.steps, *self.program.args)
