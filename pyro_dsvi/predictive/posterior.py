"""Where draws of the posterior come from: a guide, or draws that are already there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.passes.probe import aside
from pyro_dsvi.predictive.given import Given, canonical, draw_alone, draw_side_by_side
from pyro_dsvi.predictive.side_by_side import SideBySide
from pyro_dsvi.predictive.survey import nesting_of, ranks_of

Draws = dict[str, Tensor]
GUIDE_DRAWS = 1000  # where nobody said how many


class Posterior(ABC):
    """Draws of the posterior.

    Attributes:
        number: how many draws there are to be.
    """

    number: int

    @abstractmethod
    def one(self) -> Draws:
        """One draw, to look at."""

    @abstractmethod
    def chunks(self, size: int, sites: Collection[str]) -> Iterator[tuple[int, Draws]]:
        """All draws of some sites, up to ``size`` at a time: their number and ``[draws, *own]``."""


class Samples(Posterior):
    """Draws that are already there, by site: ``[draws, *own]``.

    Args:
        values: the draws.
        number: how many to use, evenly spaced among them; all if None.

    Raises:
        InvalidArgument: if there are none, or fewer than wanted, or not as many of each site.
    """

    def __init__(self, values: Mapping[str, Tensor], number: int | None) -> None:
        sizes = {name: len(value) if value.dim() else 0 for name, value in values.items()}
        if not sizes or len(set(sizes.values())) != 1 or min(sizes.values()) == 0:
            raise InvalidArgument(
                f"predict: samples need as many draws of each site, found {sizes or 'no site'}"
            )
        available = next(iter(sizes.values()))
        if number is not None and not 1 <= number <= available:
            raise InvalidArgument(
                f"predict: num_samples must be 1 to {available}, as there are samples; got {number}"
            )
        self.number = available if number is None else number
        rows = torch.arange(self.number) * available // self.number
        self.values = {name: value[rows.to(value.device)] for name, value in values.items()}

    def one(self) -> Draws:
        return {name: value[0] for name, value in self.values.items()}

    def chunks(self, size: int, sites: Collection[str]) -> Iterator[tuple[int, Draws]]:
        for start in range(0, self.number, size):
            rows = slice(start, start + size)
            some = {name: self.values[name][rows] for name in sites}
            yield min(size, self.number - start), some


class FromGuide(Posterior):
    """Draws from a guide, side by side where it allows that.

    Args:
        guide: the guide, its arguments bound.
        number: how many draws.
        vectorize: side by side (True), in a loop (False), or as a check shows (None).
    """

    def __init__(self, guide: Callable[[], Any], number: int, vectorize: bool | None) -> None:
        self.guide = guide
        self.number = number
        with aside():
            guide()  # an autoguide sets itself up in its first run
            run = draw_alone(guide, {})
        ranks = ranks_of(run)
        self.dims = {name: rank + run.sites[name]["fn"].event_dim for name, rank in ranks.items()}
        self.first = _latents(run)
        sides = SideBySide("guide", guide, ranks, nesting_of(run))
        self.nesting = sides.nesting_for({}, number, vectorize)

    def one(self) -> Draws:
        return self.first

    def chunks(self, size: int, sites: Collection[str]) -> Iterator[tuple[int, Draws]]:
        for start in range(0, self.number, size):
            number = min(size, self.number - start)
            yield number, self._draw(number, sites)

    def _draw(self, number: int, sites: Collection[str]) -> Draws:
        if self.nesting is None:
            runs = [_latents(draw_alone(self.guide, {})) for _ in range(number)]
            return {name: torch.stack([run[name] for run in runs]) for name in sites}
        drawn = _latents(draw_side_by_side(self.guide, {}, self.nesting, number))
        return {name: canonical(drawn[name], number, self.dims[name]) for name in sites}


def _latents(run: Given) -> Draws:
    return {name: msg["value"] for name, msg in run.sites.items() if not msg["is_observed"]}


def posterior_of(
    guide_or_samples: Any,
    bind: Callable[[Callable[..., Any]], Callable[[], Any]],
    num_samples: int | None,
    vectorize: bool | None,
) -> Posterior:
    """Tell a guide from samples and from a run of MCMC.

    Args:
        guide_or_samples: what the user gave.
        bind: binds the arguments of a program.
        num_samples: how many draws, or None.
        vectorize: see :class:`FromGuide`.

    Raises:
        InvalidArgument: if it is none of the three, or ``num_samples`` cannot be.
    """
    if isinstance(guide_or_samples, Mapping):
        return Samples(guide_or_samples, num_samples)
    if callable(getattr(guide_or_samples, "get_samples", None)):  # pyro.infer.MCMC
        return Samples(guide_or_samples.get_samples(), num_samples)
    if not callable(guide_or_samples):
        raise InvalidArgument(
            "predict: a guide, a dict of samples or an MCMC object is wanted, got "
            f"{type(guide_or_samples).__name__}"
        )
    number = GUIDE_DRAWS if num_samples is None else num_samples
    if number < 1:
        raise InvalidArgument(f"predict: num_samples must be at least 1, got {number}")
    return FromGuide(bind(guide_or_samples), number, vectorize)
