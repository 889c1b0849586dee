"""What every contender can do: make steps, be waited for, and tell its loss without learning."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from benchmarks.interleave import Contender

RATE = 1e-3  # of everybody's Adam, whose other constants are torch's and NumPyro's defaults


class NotAvailable(Exception):
    """A contender that cannot take part here, and why."""


class Runner(ABC):
    """One way to run one problem, with parameters, optimizer and random state of its own.

    Attributes:
        steps: steps that one call makes.
    """

    steps: int = 1

    @abstractmethod
    def step(self) -> Any:
        """Make the next steps: minibatch, loss, gradients, update."""

    @abstractmethod
    def losses(self, number: int) -> np.ndarray:
        """Estimates of the loss in nats at the present parameters; nothing is learnt."""

    def finish(self) -> Any:
        """Wait for what was only asked for; here everything is done at once."""
        return None

    def around(self) -> AbstractContextManager[Any]:
        """The context in which all of it happens."""
        return nullcontext()

    def contender(self, name: str, *, every: int = 1) -> Contender:
        """This way as one that takes turns."""
        return Contender(name, self.step, self.around, every, self.steps, self.finish)


Build = Callable[[], Runner]
