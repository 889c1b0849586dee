"""Run a program at given latents, with its observations as they are or drawn anew.

``poutine.uncondition`` would draw ``pyro.deterministic`` sites and factors as well; here they are
computed, as ever.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.errors import SiteMismatch
from pyro_dsvi.export.sites import Kind, kind_of, minibatch
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.score import not_in_guide


class Improper(NotImplementedError):
    """A site's distribution cannot be drawn from.

    Args:
        site: its name.
        law: the distribution.
    """

    def __init__(self, site: str, law: Any) -> None:
        super().__init__(f"site {site!r}: {type(law).__name__} has no draws")


class Replay(Record):
    """Records a run at given values.

    Args:
        values: latents' values by site, ``[S, *own plates, *event]``.
        forget: whether the observations are drawn as well.
        observations: sites that are drawn although nobody observes them in this run.
        ancestral: whether a latent without a value is drawn too, or refused.
        fitting: whether a value of another shape than the site's counts as none.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        forget: bool = False,
        observations: Collection[str] = (),
        ancestral: bool = False,
        fitting: bool = False,
    ) -> None:
        super().__init__(None)
        self.values = values
        self.forget = forget
        self.observations = observations
        self.ancestral = ancestral
        self.fitting = fitting

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if site_is_subsample(msg):
            _refuse_minibatch(msg)
            return
        name, kind = msg["name"], kind_of(msg)
        if kind is Kind.OBSERVED and self.forget:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
            _draw(msg)
        elif kind is Kind.LATENT and msg["value"] is None:
            value = self._value(msg)
            if value is not None:
                msg["value"], msg["done"] = value, True
            elif self.ancestral or name in self.observations:
                _draw(msg)
            else:
                raise not_in_guide(name)

    def _value(self, msg: Any) -> Tensor | None:
        value = self.values.get(msg["name"])
        if value is None:
            return None
        wanted = _shape(msg["fn"])
        if value.numel() == wanted.numel():
            return value.reshape(wanted)
        if self.fitting:
            return None
        raise SiteMismatch(
            f"site {msg['name']!r}: its values are of shape {tuple(value.shape)} (draws, plates, "
            f"event), here {tuple(wanted)} is wanted; a guide that keeps parameters for each "
            "element of a plate knows nothing of other elements"
        )


def _shape(fn: Any) -> torch.Size:
    return torch.Size(fn.shape())


def _draw(msg: Any) -> None:
    try:
        msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"]).detach()
    except NotImplementedError as error:
        raise Improper(msg["name"], msg["fn"]) from error
    msg["done"] = True


def _refuse_minibatch(msg: Any) -> None:
    plate = msg["fn"]
    if plate.subsample_size is not None and plate.subsample_size < plate.size:
        raise minibatch(msg["name"], plate.subsample_size, plate.size)


@contextmanager
def side_by_side(rows: int, nesting: int | None) -> Iterator[None]:
    """A plate of so many draws left of ``nesting`` plate dimensions; none at all if that is None.

    Args:
        rows: draws.
        nesting: plate dimensions of the programs, or None.
    """
    with nullcontext() if nesting is None else pyro.plate(PARTICLES, rows, dim=-1 - nesting):
        yield


def replay(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    handler: Replay,
    rows: int = 1,
    nesting: int | None = None,
) -> Replay:
    """Run a program under a handler, and return the handler.

    Args:
        program: the program.
        args: its positional arguments.
        kwargs: its keyword arguments.
        handler: gives its sites their values.
        rows: draws in the run.
        nesting: plate dimensions right of the draws' own; None for one draw alone.
    """
    with handler, side_by_side(rows, nesting):
        program(*args, **kwargs)
    return handler
