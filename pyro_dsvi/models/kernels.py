"""Basis functions centred on points: the value at x of the function that belongs to a centre."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument

_PAIRED = 2000  # points whose distances are all taken for the median


class Kernel(ABC):
    """A function of a point and a centre.  It need be no covariance: its values are features."""

    @abstractmethod
    def __call__(self, x: Tensor, centres: Tensor) -> Tensor:
        """Values ``[N, D]`` for points ``[N, d]`` and centres ``[D, d]``."""


@dataclass(frozen=True)
class RBF(Kernel):
    r"""A Gaussian bump, :math:`\exp(-\lVert x - c \rVert^2 / 2 \ell^2)`.

    Args:
        lengthscale: ℓ, in the units of x, positive.

    Example:
        >>> import torch
        >>> RBF(1.0)(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.3679]])
    """

    lengthscale: float

    def __post_init__(self) -> None:
        if not self.lengthscale > 0:
            raise InvalidArgument(f"RBF: lengthscale must be positive, got {self.lengthscale}")

    def __call__(self, x: Tensor, centres: Tensor) -> Tensor:
        # Differences are taken one by one, so that a point has the value 1 at its own centre.
        distance = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return (-0.5 * (distance / self.lengthscale) ** 2).exp()


@dataclass(frozen=True)
class Linear(Kernel):
    r"""The inner product by dimension, :math:`x^\top c / d`."""

    def __call__(self, x: Tensor, centres: Tensor) -> Tensor:
        return x @ centres.T / x.shape[-1]


@dataclass(frozen=True)
class Polynomial(Kernel):
    r"""All products up to a degree, :math:`(x^\top c / d + r)^p`.

    Args:
        degree: p, at least 1.
        offset: r, which weighs the lower degrees.
    """

    degree: int
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise InvalidArgument(f"Polynomial: degree must be at least 1, got {self.degree}")

    def __call__(self, x: Tensor, centres: Tensor) -> Tensor:
        return (x @ centres.T / x.shape[-1] + self.offset) ** self.degree


def median_distance(x: Tensor) -> float:
    """Median Euclidean distance between two points, a lengthscale to start from.

    Args:
        x: points ``[N, d]``; of more than 2,000, as many are used, evenly spaced.

    Raises:
        InvalidArgument: if there are fewer than two points, or most of them coincide.
    """
    if len(x) < 2:
        raise InvalidArgument(f"median_distance: two points are needed, got {len(x)}")
    found = float(torch.pdist(x[:: -(-len(x) // _PAIRED)].double()).median())
    if not found > 0:
        raise InvalidArgument("median_distance: most points coincide; give a lengthscale")
    return found
