"""The state of the random generators: kept, put back, and watched for draws outside torch."""

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """State of torch's default generators."""

    cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def now(cls) -> "RandomState":
        """The state at present."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def same(self, other: "RandomState") -> bool:
        """Whether both generators stand at the same place."""
        return torch.equal(self.cpu, other.cpu) and all(map(torch.equal, self.cuda, other.cuda))


def outside_torch() -> tuple[object, str]:
    """What tells whether Python's or numpy's global generator has been drawn from."""
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002


def drawn_outside(before: tuple[object, str]) -> str | None:
    """The name of the generator outside torch that has moved since ``before``, if one has."""
    now = outside_torch()
    if now[0] != before[0]:
        return "Python's random module"
    return "numpy.random" if now[1] != before[1] else None
