"""The predictive distribution as the mixture of the likelihood's laws, one for each draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.predictive.laws import Laws, over_draws
from pyro_dsvi.predictive.prediction import LogScore, Prediction, log_score_of

_DRAWS = 4000  # of the mixture, where its distribution function is not at hand
_HALVINGS = 60  # what is left of the bracket: 2⁻⁶⁰


@dataclass(frozen=True, eq=False)
class MixturePrediction(Prediction):
    r"""The equally weighted mixture of S laws, kept as it is.

    It serves any likelihood that has a log probability.  Its memory is that of S laws of the data.

    Attributes:
        laws: the components.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(x, y=None):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         return pyro.sample("y", dist.Normal(w * x, 0.5), obs=y)
        >>> draws = {"w": torch.tensor([0.9, 1.1])}
        >>> prediction = dsvi.predict(model, draws, torch.tensor([0.0, 10.0]))
        >>> prediction.mean
        tensor([ 0., 10.])
        >>> prediction.variance
        tensor([0.2500, 1.2500])
    """

    laws: Sequence[Laws]

    @property
    def _shapes(self) -> tuple[torch.Size, torch.Size]:
        first = self.laws[0]
        batch = first.law.batch_shape
        return batch[len(batch) - first.rank :], first.law.event_shape

    @property
    def batch_shape(self) -> torch.Size:
        return self._shapes[0]

    @property
    def event_shape(self) -> torch.Size:
        return self._shapes[1]

    @cached_property
    def mean(self) -> Tensor:
        return over_draws(self.laws, _mean).mean(0)

    @cached_property
    def variance(self) -> Tensor:
        between = over_draws(self.laws, _mean).var(0, correction=0)
        return over_draws(self.laws, _variance).mean(0) + between

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, shape ``[*batch, *event]``."""
        return self.variance.sqrt()

    def log_score(self, y: Tensor) -> LogScore:
        self.refuse_shape(y)
        log_p = over_draws(self.laws, lambda law: law.log_prob(y))
        number = math.log(self.num_samples)
        return log_score_of(
            log_p.logsumexp(0) - number, (2 * log_p).logsumexp(0) - number, self.num_samples
        )

    def cdf(self, y: Tensor) -> Tensor:
        """Probability of no more than ``y``, element by element of an event.

        Args:
            y: where, shape ``[*batch, *event]``.

        Raises:
            NotImplementedError: if the likelihood has no distribution function.
            InvalidArgument: if ``y`` has another shape.
        """
        self.refuse_shape(y)
        return self._cdf(y)

    def _cdf(self, y: Tensor) -> Tensor:
        return over_draws([part.marginal for part in self.laws], lambda law: law.cdf(y)).mean(0)

    def sample(self) -> Tensor:
        """One draw of each component, shape ``[num_samples, *batch, *event]``."""
        return over_draws(self.laws, lambda law: law.sample())

    def quantile(self, q: float | Sequence[float] | Tensor) -> Tensor:
        """Quantiles of the mixture, element by element of an event.

        By halving a bracket of the mixture's distribution function where the likelihood has one, is
        continuous and has a finite variance; else from draws (4,000 at least).

        Args:
            q: probabilities in (0, 1), of any shape.

        Returns:
            Quantiles, shape ``[*q, *batch, *event]``.

        Raises:
            InvalidArgument: if a probability is outside (0, 1).
        """
        q = torch.as_tensor(q, dtype=self.mean.dtype, device=self.mean.device)
        if not bool(((q > 0) & (q < 1)).all()):
            raise InvalidArgument(f"quantile: q must be in (0, 1), got {q.tolist()}")
        found = torch.stack([self._quantile(float(p)) for p in q.flatten()])
        return found.reshape(*q.shape, *self.batch_shape, *self.event_shape)

    def _quantile(self, q: float) -> Tensor:
        bracket = self._bracket(q)
        if bracket is None:
            repeats = -(-_DRAWS // self.num_samples)
            draws = torch.cat([self.sample() for _ in range(repeats)])
            return torch.quantile(draws.to(self.mean.dtype), q, dim=0)
        low, high = bracket
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self._cdf(middle) < q
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _bracket(self, q: float) -> tuple[Tensor, Tensor] | None:
        """Where the quantile lies by Cantelli's inequality; None if there is nothing to halve."""
        first = self.laws[0].marginal.law
        support: Any = first.support
        if support.is_discrete or support.event_dim > 0 or not bool(self.variance.isfinite().all()):
            return None
        # One unit of rounding more, so that a component without variance is inside.
        spread = self.stddev + torch.finfo(self.mean.dtype).eps * (1 + self.mean.abs())
        low = self.mean - spread * math.sqrt((1 - q) / q)
        high = self.mean + spread * math.sqrt(q / (1 - q))
        if support is not constraints.real:
            low = torch.maximum(low, _edge(support, "lower_bound", low))
            high = torch.minimum(high, _edge(support, "upper_bound", high))
        try:
            self._cdf((low + high) / 2)
        except NotImplementedError:
            return None
        return low, high


def _edge(support: Any, name: str, like: Tensor) -> Tensor:
    infinite = -math.inf if name == "lower_bound" else math.inf
    return torch.as_tensor(getattr(support, name, infinite), dtype=like.dtype).to(like.device)


def _mean(law: Any) -> Tensor:
    return law.mean


def _variance(law: Any) -> Tensor:
    return law.variance
