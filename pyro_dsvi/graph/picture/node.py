"""What a stochastic computation graph consists of: inputs, computed values, draws and costs.

References:
    :cite:p:`schulman2015scg`
"""

from dataclasses import dataclass
from enum import Enum

from pyro_dsvi.estimators import Estimator


class Kind(Enum):
    """The four kinds of node."""

    INPUT = "input"
    DETERMINISTIC = "deterministic"
    STOCHASTIC = "stochastic"
    COST = "cost"


class Role(Enum):
    """Where a node belongs: to one of the programs, to both, or to the data."""

    MODEL = "model"
    GUIDE = "guide"
    BOTH = "model and guide"
    DATA = "data"


@dataclass(frozen=True)
class Plate:
    """A plate.

    Attributes:
        name: its name.
        size: its elements in a step.
        full_size: all its elements; more than ``size`` if it is subsampled.
    """

    name: str
    size: int
    full_size: int

    def __str__(self) -> str:
        if self.size == self.full_size:
            return f"{self.name}: {self.size}"
        return f"{self.name}: {self.size} of {self.full_size}"


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: its name in the graph: a site's or parameter's own, ``q(z).loc`` for what the guide
            computes for a distribution, ``log p(x)`` for a cost.
        kind: what it is.
        role: which program it belongs to.
        plates: names of the plates in which it varies, the outermost first.
        estimator: how sensitivity crosses it, if the guide draws it; else None.
        reason: why it got that estimator, in words.
    """

    name: str
    kind: Kind
    role: Role
    plates: tuple[str, ...] = ()
    estimator: Estimator | None = None
    reason: str = ""
