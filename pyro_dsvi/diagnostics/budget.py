"""What a measurement may spend."""

from dataclasses import dataclass
from typing import Any

from pyro_dsvi.errors import InvalidArgument

_STEPS = 2000  # for a reference, where the budget is one of time


@dataclass(frozen=True)
class Draws:
    """As many draws of the guide for each objective: steps times particles.

    Args:
        number: how many; at least 32 steps are made whatever it is.
    """

    number: int = 2000

    @property
    def draws(self) -> int:
        """The same."""
        return self.number


@dataclass(frozen=True)
class Seconds:
    """As much time for each objective.

    Args:
        number: how much; at least 32 steps are made whatever it is.
    """

    number: float = 5.0

    @property
    def draws(self) -> int:
        """Draws for what is not to depend on the clock."""
        return _STEPS


Budget = Draws | Seconds


def as_budget(budget: Any, caller: str) -> Budget:
    """A budget, from a number of draws too.

    Raises:
        InvalidArgument: if it is none.
    """
    if isinstance(budget, int) and not isinstance(budget, bool):
        budget = Draws(budget)
    if not isinstance(budget, Draws | Seconds) or not budget.number > 0:
        raise InvalidArgument(
            f"{caller}: budget must be Draws or Seconds above zero, got {budget!r}; e.g. "
            "dsvi.diagnostics.Draws(2000)"
        )
    return budget
