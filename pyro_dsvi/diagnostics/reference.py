"""Where the right gradient comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.graph.nodes import Run


@dataclass(eq=False)
class Draw:
    """A joint draw of one particle.

    Attributes:
        values: value at each site, or the noise that it is made from, by name.
        log_q: its log probability (log weight, where there are nodes), differentiable.
        run: the programs at these values.
    """

    values: Mapping[str, Tensor]
    log_q: Tensor
    run: Run


@dataclass(frozen=True, eq=False)
class Found:
    """The right gradient, and all joint draws of one particle where they were visited."""

    gradient: Gradient
    draws: Sequence[Draw] = ()


class Reference(ABC):
    """A way to the right gradient of a bound."""

    @abstractmethod
    def find(self, programs: Programs, bound: Bound, num_particles: int, tested: Any) -> Found:
        """The bound's gradient.

        Args:
            programs: model and guide; meets their parameters.
            bound: the bound.
            num_particles: K.
            tested: the objective in question, whose estimators are not to be used.

        Raises:
            NoReference: if this way is closed.
        """
