"""NumPyro's ``SVI.update`` as one jitted call a step, or many steps a call by ``lax.scan``."""

from typing import Any

import numpy as np

from benchmarks.contenders.runner import RATE, NotAvailable, Runner
from benchmarks.problem import Problem


class Jitted(Runner):
    """One compiled call for ``steps`` steps.

    Args:
        problem: the problem.
        loss: name of a loss in ``numpyro.infer``.
        particles: draws of the guide in a step.
        device: where to run.
        steps: steps in a call; more than one are scanned.
        rate: Adam's step size.

    Raises:
        NotAvailable: if NumPyro is not installed, or JAX has no such device.
    """

    def __init__(
        self,
        problem: Problem,
        loss: str,
        particles: int,
        device: str = "cpu",
        *,
        steps: int = 1,
        rate: float = RATE,
    ) -> None:
        jax, numpyro = self.libraries()
        try:
            self._device = jax.devices("gpu" if device == "cuda" else device)[0]
        except RuntimeError as error:
            raise NotAvailable(f"JAX has no device {device!r} here") from error
        self.steps = steps
        self._jax = jax
        with jax.default_device(self._device):
            program = problem.in_numpyro()
            self.args = program.args
            elbo = getattr(numpyro.infer, loss)(num_particles=particles)
            adam = numpyro.optim.Adam(rate)
            self._svi = numpyro.infer.SVI(program.model, program.guide, adam, elbo)
            self.state = self._svi.init(jax.random.PRNGKey(0), *self.args)
            self._call: Any = jax.jit(self._svi.update if steps == 1 else self._scan)

    @staticmethod
    def libraries() -> tuple[Any, Any]:
        """JAX and NumPyro.

        Raises:
            NotAvailable: if one is not installed.
        """
        try:
            import jax
            import numpyro
        except ImportError as error:
            raise NotAvailable(f"{error.name} is not installed") from error
        return jax, numpyro

    def _scan(self, state: Any, *args: Any) -> Any:
        return self._jax.lax.scan(
            lambda state, _: self._svi.update(state, *args), state, None, length=self.steps
        )

    def step(self) -> Any:
        self.state, value = self._call(self.state, *self.args)
        return value

    def finish(self) -> Any:
        self._jax.block_until_ready(self.state)

    def losses(self, number: int) -> np.ndarray:
        evaluate = self._jax.jit(
            lambda key: self._svi.evaluate(self.state._replace(rng_key=key), *self.args)
        )
        keys = self._jax.random.split(self._jax.random.PRNGKey(1), number)
        return np.array([float(evaluate(key)) for key in keys])
