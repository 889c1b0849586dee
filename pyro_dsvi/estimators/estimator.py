"""An estimator says how a bound's sensitivity is sent back across a sampled site.

Each one answers three questions: how the site is drawn, whether the drawn value carries a gradient,
and which density the site's credit multiplies in the surrogate.
"""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from pyro_dsvi.baselines import Baseline, Visit


class Bias(Enum):
    """What is known of the expectation of an estimator's gradient."""

    UNBIASED = "unbiased"
    CONSISTENT = "consistent"
    BIASED = "biased"


class Surrogate(NamedTuple):
    """What a site adds to the objective: the inner product of a weight and a log density.

    Attributes:
        weight: the site's credit less its baseline, in nats, without gradient.
        score: log density in nats, of the same shape.
        auxiliary: scalar loss of the estimator's own parameters, or None.
    """

    weight: Tensor
    score: Tensor
    auxiliary: Tensor | None = None


class Estimator(ABC):
    """One way to send sensitivity back across a site.  Subclasses are frozen dataclasses.

    Attributes:
        bias: what is known of the gradient's expectation.
        passes_gradient: whether the drawn value carries a gradient; if not, it is detached.
        baseline: the baseline whose state the objective keeps, if there is one.
        relaxes: whether the drawn value may lie between the points of a discrete support, where
            both programs' log densities are extended linearly.
        elementwise: whether, without a baseline, the surrogate looks at each element by itself, so
            that several sites may be shown to it as one.
    """

    bias: ClassVar[Bias]
    passes_gradient: ClassVar[bool]
    baseline: Baseline | None = None
    elementwise: ClassVar[bool] = False
    relaxes: ClassVar[bool] = False

    @abstractmethod
    def objection(self, q: Any) -> str | None:
        """Why the site's distribution cannot be handled, and what to do; None if it can."""

    def draw(self, q: Any) -> Tensor:
        """Draw the site's value; by default as Pyro does (``rsample`` where there is one)."""
        return q()

    def needs_credit(self, q: Any) -> bool:
        """Whether the draw must answer for costs; False if its value carries all sensitivity."""
        return True

    @abstractmethod
    def score(self, q: Any, value: Tensor) -> Tensor:
        """Log density in nats, per batch element, whose gradient the credit multiplies."""

    @abstractmethod
    def surrogate(self, visit: Visit) -> Surrogate:
        """The site's term, from its credit and score."""
