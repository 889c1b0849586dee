"""An estimator says how a bound's sensitivity is sent back across a sampled site.

Each one answers four questions: how the site is drawn, whether the drawn value carries a gradient,
at which other values it wants to know the credit, and what it adds to the surrogate: an inner
product of weights and a function of the distribution's parameters, most often its log density.
"""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.baselines import Baseline, Counterfactual, Visit
from pyro_dsvi.estimators.densities import log_prob
from pyro_dsvi.estimators.law import sampling_law


class Bias(Enum):
    """What is known of the expectation of an estimator's gradient."""

    UNBIASED = "unbiased"
    CONSISTENT = "consistent"
    BIASED = "biased"


class Surrogate(NamedTuple):
    """What a site adds to the objective: the inner product of a weight and a score.

    Attributes:
        weight: in nats, without gradient; most often the site's credit less its baseline.
        score: what carries the gradient, of the same shape; most often a log density.
        auxiliary: scalar loss of the estimator's own parameters, or None.
    """

    weight: Tensor
    score: Tensor
    auxiliary: Tensor | None = None

    @classmethod
    def sum(cls, *products: tuple[Tensor, Tensor], auxiliary: Tensor | None = None) -> "Surrogate":
        """Several inner products as one; each weight is broadcast to its score."""
        weights = [weight.detach().expand(score.shape).reshape(-1) for weight, score in products]
        scores = [score.reshape(-1) for _, score in products]
        return cls(torch.cat(weights), torch.cat(scores), auxiliary)


class Estimator(ABC):
    """One way to send sensitivity back across a site.  Subclasses are frozen dataclasses.

    Attributes:
        bias: what is known of the gradient's expectation.
        passes_gradient: whether the drawn value carries a gradient; if not, it is detached.
        baseline: what is subtracted from the credit, if anything is.
        learner: the module whose state the objective keeps and trains, if there is one; by default
            the baseline.
        relaxes: whether the site's value may lie between the points of a discrete support, in the
            first run or at counterfactual values; both programs' log densities are then extended
            linearly.
        joint: whether counterfactual values may be put in at all elements of a plate at once even
            where the elements answer for a common cost.
        elementwise: whether, without a baseline, the surrogate looks at each element by itself, so
            that several sites may be shown to it as one.
        enumerates: whether the site takes its whole support as its value, in a tensor dimension of
            its own, instead of a draw.
        additive_only: why the estimator serves additive bounds alone, and what to do; None if it
            serves all.
    """

    bias: ClassVar[Bias]
    passes_gradient: ClassVar[bool]
    baseline: Baseline | None = None
    elementwise: ClassVar[bool] = False
    joint: ClassVar[bool] = True
    relaxes: ClassVar[bool] = False
    enumerates: ClassVar[bool] = False
    additive_only: ClassVar[str | None] = None

    @property
    def asks(self) -> bool:
        """Whether it may ask for the credit at other values than the drawn one."""
        return type(self).counterfactual is not Estimator.counterfactual

    @property
    def learner(self) -> torch.nn.Module | None:
        return self.baseline

    @abstractmethod
    def objection(self, q: Any) -> str | None:
        """Why the site's distribution cannot be handled, and what to do; None if it can."""

    def draw(self, q: Any) -> Tensor:
        """Draw the site's value; by default as Pyro does (``rsample`` where there is one)."""
        return q()

    def counterfactual(self, q: Any, value: Tensor) -> Counterfactual | None:
        """Other values at which the credit is asked for; None if the drawn one is enough.

        The value has been drawn already, by whomever: what an estimator needs to know of the noise
        behind it, it draws from the noise's distribution given the value.
        """
        return None

    def stand_in(self, q: Any) -> Tensor | None:
        """A draw that passes a gradient, for sites upstream which ask for slopes; None if none."""
        return self.draw(q) if self.passes_gradient else None

    def needs_credit(self, q: Any) -> bool:
        """Whether the draw must answer for costs; False if its value carries all sensitivity."""
        return True

    def score(self, q: Any, value: Tensor) -> Tensor:
        """Log density in nats, per batch element, whose gradient the credit multiplies."""
        return log_prob(sampling_law(q), value)

    @abstractmethod
    def surrogate(self, visit: Visit) -> Surrogate:
        """The site's term, from its credit and score."""

    def update(self, visit: Visit) -> None:
        """Learn from this step's credit for the steps to come, after all surrogates are made."""
        if self.baseline is not None:
            self.baseline.update(visit)
