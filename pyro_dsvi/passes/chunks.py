"""A step's particles, some at a time, and the same ones again.

A chunk that is run a second time must make the draws that it made the first time, so the state of
every generator is kept from the start of each chunk.  What is drawn beside the particles meanwhile
(other values at which an estimator asks for its credit) must not repeat the noise of the next
chunk, so it comes from where the first time round has ended, and so does the step that follows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.util import get_rng_state, set_rng_state


class Chunks:
    """The particles of one step, a chunk at a time, once or twice.

    Args:
        num_particles: particles of the step.
        size: particles held at once.
    """

    def __init__(self, num_particles: int, size: int) -> None:
        starts = range(0, num_particles, size)
        self.parts = [range(i, min(i + size, num_particles)) for i in starts]
        self._before: list[Any] = [None] * len(self.parts)
        self._rest: Any = None

    def once(self) -> Iterator[tuple[range, Callable[[], None]]]:
        """Each chunk's particles, and what is to be called whenever they begin to be drawn."""
        for i, part in enumerate(self.parts):
            yield part, lambda i=i: self._begin(i)
        self._rest = _random_state()

    def again(self) -> Iterator[tuple[range, Callable[[], None]]]:
        """The same with the same draws, and what is to be called once they have been made."""
        for part, state in zip(self.parts, self._before, strict=True):
            _set_random_state(state)
            yield part, lambda: _set_random_state(self._rest)
            self._rest = _random_state()

    def _begin(self, i: int) -> None:
        self._before[i] = _random_state()


def _random_state() -> Any:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return get_rng_state(), cuda


def _set_random_state(state: Any) -> None:
    host, cuda = state
    set_rng_state(host)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
