"""What one site may be, once for each posterior draw: the components of the predictive mixture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent


@dataclass(frozen=True, eq=False)
class Laws:
    """Distributions of one site at some of the posterior's draws.

    Args:
        law: the distribution, of one draw or of several side by side.
        draws: how many draws it holds side by side; None for one, without an axis for it.
        rank: batch dimensions that the site has for a single draw.
    """

    law: Any
    draws: int | None
    rank: int

    def __len__(self) -> int:
        return 1 if self.draws is None else self.draws

    def each(self, of: Callable[[Any], Tensor], before: int = 0) -> Tensor:
        """A tensor of each draw's law, shape ``[draws, *before, *batch, *rest]``.

        Args:
            of: from the law to a tensor, its batch behind ``before`` dimensions of its own.
            before: how many those are.
        """
        found = of(self.law)
        if self.draws is None:
            return found.unsqueeze(0)
        # Plates that the site does not stand in have left ones behind the draws' own axis.
        idle = len(self.law.batch_shape) - 1 - self.rank
        head, tail = found.shape[:before], found.shape[before + 1 + idle :]
        return found.reshape(*head, self.draws, *tail).movedim(before, 0)

    @property
    def marginal(self) -> "Laws":
        """The laws of each element of the event, where the event is of independent elements."""
        law = self.law
        while isinstance(law, Independent):
            law = law.base_dist
        # The elements' dimensions stand to the right of all others, so the idle ones stay in place.
        return Laws(law, self.draws, self.rank + len(law.batch_shape) - len(self.law.batch_shape))


def over_draws(laws: Sequence[Laws], of: Callable[[Any], Tensor]) -> Tensor:
    """A tensor of each draw's law, of all draws: ``[num_samples, *batch, *rest]``."""
    return torch.cat([part.each(of) for part in laws])
