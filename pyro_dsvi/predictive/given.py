"""Runs of a program at given draws of the posterior, one at a time or many side by side."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.errors import SiteMismatch
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.passes.record import Record

Program = Callable[[], Any]  # its arguments bound


class Given(Record):
    """Records a run of the model at one draw of the posterior, or at many side by side.

    Args:
        values: the draws by site; ``[*batch, *event]``, or ``[draws, *batch, *event]``.
        nesting: plate dimensions of the model, where draws are side by side; None for one draw.

    Attributes:
        minibatches: plates that have drawn a minibatch of their own.
    """

    def __init__(self, values: Mapping[str, Tensor], nesting: int | None) -> None:
        super().__init__(None)
        self.values = values
        self.nesting = nesting
        self.minibatches: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if site_is_subsample(msg):
            fn = msg["fn"]
            if msg["value"] is None and fn.subsample_size not in (None, fn.size):
                self.minibatches.add(name)
        elif name in self.values and not msg["is_observed"] and not msg["done"]:
            msg["value"] = self._fitted(name, msg["fn"])
            msg["done"] = True

    def _fitted(self, name: str, law: Any) -> Tensor:
        value, shape = self.values[name], law.shape()
        if self.nesting is not None:
            batch = value.dim() - 1 - law.event_dim
            value = value.reshape(len(value), *[1] * (self.nesting - batch), *value.shape[1:])
        if value.shape != shape:
            skipped = 0 if self.nesting is None else 1
            raise SiteMismatch(
                f"site {name!r}: a draw of the posterior has shape "
                f"{tuple(self.values[name].shape[skipped:])}, but with these arguments the model "
                f"samples {tuple(shape[skipped:])}; where it is a latent of each datum, name it in "
                "redraw=, and it will be drawn anew from the model"
            )
        return value


def draw_side_by_side(
    program: Program, values: Mapping[str, Tensor], nesting: int, number: int
) -> Given:
    """Run a program at draws side by side, in a plate to the left of all its own."""
    run = Given(values, nesting)
    with run, pyro.plate(PARTICLES, number, dim=-1 - nesting):
        program()
    return run


def draw_alone(program: Program, values: Mapping[str, Tensor]) -> Given:
    """Run a program at one draw."""
    run = Given(values, None)
    with run:
        program()
    return run


def canonical(value: Tensor, draws: int, dims: int) -> Tensor:
    """Draws side by side without the ones that plates of others have left: ``[draws, *own]``.

    Args:
        value: the draws, ``[draws, *ones, *own]``.
        draws: how many there are.
        dims: dimensions of one draw, batch and event.
    """
    return value.reshape(draws, *value.shape[value.dim() - dims :])
