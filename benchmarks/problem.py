"""One problem, written out for each contender from the same arrays.

What is compared are ways to run the same mathematics: the same data, the same first parameters in
the same parametrisation, the same prior and likelihood with their constants.  So each workload is
one class that tells it three times: by hand in torch, in Pyro (which serves ours as well), and in
NumPyro.  A test holds their losses and gradients against each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Program:
    """A model, a guide and their arguments.

    Attributes:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()


Make = Callable[[], Program]


@dataclass(frozen=True)
class ByHand:
    """The same in plain torch.

    Attributes:
        parameters: leaf tensors by name, unconstrained.
        loss: from parameters and state to a scalar whose gradient is the estimator's, the loss in
            nats, and the next state; pure, but for the random draws.
        state: what the estimator remembers from step to step (a running mean).
    """

    parameters: Tensors
    loss: Callable[[Tensors, Tensors], tuple[Tensor, Tensor, Tensors]]
    state: Tensors = field(default_factory=dict)


class Problem(ABC):
    """A workload's mathematics.

    Args:
        seed: of the first parameters, and of data that are made up.

    Attributes:
        particles: draws of the guide in a step, where nobody asks for another number.
    """

    particles: ClassVar[int] = 1

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    @abstractmethod
    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        """For plain torch."""

    @abstractmethod
    def in_pyro(self, device: str = "cpu") -> Program:
        """For Pyro and for us; to be called within a param store of its own."""

    @abstractmethod
    def in_numpyro(self) -> Program:
        """For NumPyro, which is imported here."""


def tensor(array: np.ndarray, device: str = "cpu") -> Tensor:
    """A copy as a float32 tensor."""
    return torch.tensor(array, dtype=torch.float32, device=device)


def leaves(arrays: dict[str, np.ndarray], device: str = "cpu") -> Tensors:
    """Copies as parameters."""
    return {name: tensor(array, device).requires_grad_() for name, array in arrays.items()}
