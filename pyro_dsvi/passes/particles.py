"""Whether the particles of a pair of programs are run side by side or in a loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro

from pyro_dsvi.errors import InvalidArgument, LoopedParticlesWarning
from pyro_dsvi.graph.preexisting import know
from pyro_dsvi.passes.probe import nesting_of, objection_to_broadcasting

Say = Callable[[type[Warning], str], None]


@dataclass(frozen=True)
class Particles:
    """How many particles there are, and how they are to be run.

    Args:
        number: particles in a step.
        vectorize: side by side (True), in a loop (False), or as one checked pass shows (None).
        max_plate_nesting: plate dimensions of the programs; found by running them if infinite.
    """

    number: int
    vectorize: bool | None
    max_plate_nesting: float

    def nesting(
        self, model: Callable, guide: Callable, args: tuple[Any, ...], kwargs: Mapping, say: Say
    ) -> int | None:
        """Plate dimensions to the right of the particles' own plate; None for a loop.

        Args:
            model: the model.
            guide: the guide.
            args: positional arguments of both.
            kwargs: keyword arguments of both.
            say: gives a warning once.
        """
        know(model, guide, vars(pyro.get_param_store()))
        if self.number == 1 or self.vectorize is False:
            return None
        # Run once in the ordinary way in any case: a guide may set itself up in its first run.
        found, nesting = nesting_of(model, guide, args, kwargs), self.max_plate_nesting
        know(vars(pyro.get_param_store()))  # what it has made there was not drawn either
        if not math.isfinite(nesting):
            nesting = found
        elif nesting < found:
            raise InvalidArgument(
                f"max_plate_nesting={nesting}, but the programs have {found} plate dimensions; "
                "raise it, or leave it out to have it found"
            )
        if self.vectorize is None:
            objection = objection_to_broadcasting(model, guide, args, kwargs, int(nesting))
            if objection is not None:
                say(
                    LoopedParticlesWarning,
                    f"the {self.number} particles are run in a loop, since the program does not "
                    f"broadcast over them: {objection}; pass vectorize_particles=False to choose "
                    "the loop, or write the program for batches",
                )
                return None
        return int(nesting)

    def plates(
        self, nesting: int | None, model: Callable, guide: Callable, args: tuple, kwargs: Mapping
    ) -> int:
        """Dimensions that plates take up, the particles' own among them.

        Args:
            nesting: what :meth:`nesting` found.
            model: the model.
            guide: the guide.
            args: positional arguments of both.
            kwargs: keyword arguments of both.
        """
        if nesting is not None:
            return nesting + 1
        if math.isfinite(self.max_plate_nesting):
            return int(self.max_plate_nesting)
        return nesting_of(model, guide, args, kwargs)
