"""Whether a program can be run for many draws at once, found by running it in both ways."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import LoopedParticlesWarning, SiteMismatch
from pyro_dsvi.passes.probe import aside
from pyro_dsvi.predictive.given import Program, canonical, draw_alone, draw_side_by_side

_TRIED = 3


@dataclass(frozen=True, eq=False)
class SideBySide:
    """A program that may be run in a plate of draws.

    Attributes:
        what: what it is, in a word.
        program: the program.
        ranks: batch dimensions of each site in a run of one draw.
        nesting: its plate dimensions.
        sites: sites whose law must not change; all that are drawn if None.
    """

    what: str
    program: Program
    ranks: Mapping[str, int]
    nesting: int
    sites: Collection[str] | None = None

    def nesting_for(
        self, values: Mapping[str, Tensor], number: int, vectorize: bool | None
    ) -> int | None:
        """Plate dimensions to the right of the draws; None where they are to be run in a loop.

        Args:
            values: draws to try it with, ``[draws, *own]``.
            number: how many draws there will be.
            vectorize: side by side (True), in a loop (False), or as a check shows (None).

        Warns:
            LoopedParticlesWarning: if the check shows that the program does not broadcast.
        """
        if number == 1 or vectorize is False:
            return None
        if vectorize is None:
            objection = self.objection(values)
            if objection is not None:
                warnings.warn(
                    f"the {self.what} is run in a loop over {number} draws, since it does not "
                    f"broadcast over them: {objection}; pass vectorize=False to choose the loop, "
                    "or write the program for batches",
                    LoopedParticlesWarning,
                    stacklevel=4,
                )
                return None
        return self.nesting

    def objection(self, values: Mapping[str, Tensor]) -> str | None:
        """Why the program cannot be run at draws side by side; None if it can."""
        rows = {n: torch.arange(_TRIED, device=v.device) % len(v) for n, v in values.items()}
        some = {name: value[rows[name]] for name, value in values.items()}
        with aside():
            try:
                return self._difference(some)
            except SiteMismatch:
                raise
            except Exception as error:  # whatever a program may raise that expects one draw
                first_line = (str(error).splitlines() or [""])[0]
                return f"with draws side by side it raises {type(error).__name__}: {first_line}"

    def _difference(self, some: Mapping[str, Tensor]) -> str | None:
        many = draw_side_by_side(self.program, some, self.nesting, _TRIED)
        drawn = {
            name: canonical(msg["value"], _TRIED, self.ranks[name] + msg["fn"].event_dim)
            for name, msg in many.sites.items()
            if not msg["is_observed"]
        }
        for k in range(_TRIED):
            single = draw_alone(self.program, {name: value[k] for name, value in drawn.items()})
            for name in drawn if self.sites is None else self.sites:
                if not _agree(many.sites[name], single.sites[name], k, self.nesting):
                    return f"the law of site {name!r} changes when draws are side by side"
        return None


def _agree(many: Any, single: Any, k: int, nesting: int) -> bool:
    theirs = many["fn"].log_prob(many["value"]).select(-1 - nesting, k)
    ours = single["fn"].log_prob(single["value"])
    if ours.numel() != theirs.numel():
        return False
    return torch.allclose(ours.flatten(), theirs.flatten(), rtol=1e-3, atol=1e-4, equal_nan=True)
