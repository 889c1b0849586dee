"""The predictive distribution of a class, or of a count with a largest value: its probabilities."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.calibration import Calibration, calibration
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.predictive.laws import Laws
from pyro_dsvi.predictive.prediction import LogScore, Prediction, log_score_of

_MOST_CLASSES = 1024


@dataclass(frozen=True, eq=False)
class ClassPrediction(Prediction):
    r"""Probability of each of C classes (or counts 0 … C − 1), datum by datum.

    What is kept of the draws is the mean of p, of p² and of the entropy; its memory does not depend
    on how many there were.

    Attributes:
        log_probabilities: log of the mean probability, in nats, shape ``[*batch, C]``.
        log_mean_square: log of the mean of p², in nats, shape ``[*batch, C]``.
        expected_entropy: mean over the draws of the entropy of p(y | x, w), in nats, shape
            ``[*batch]``: what would be left of the uncertainty if the weights were known.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(x, y=None):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         return pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)
        >>> draws = {"w": torch.tensor([-0.5, 3.5])}
        >>> prediction = dsvi.predict(model, draws, torch.tensor([1.0, 2.0]))
        >>> prediction.probabilities  # of w averaged first, 1.5, they would be .18 and .05 for 0
        tensor([[0.3259, 0.6741],
                [0.3660, 0.6340]])
        >>> prediction.log_score(torch.tensor([1, 1])).value
        tensor([-0.3944, -0.4557])
    """

    log_probabilities: Tensor
    log_mean_square: Tensor
    expected_entropy: Tensor

    @property
    def batch_shape(self) -> torch.Size:
        return self.log_probabilities.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size()

    @property
    def probabilities(self) -> Tensor:
        """Predictive probability of each class, shape ``[*batch, C]``."""
        return self.log_probabilities.exp()

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error of :attr:`probabilities`, for independent draws."""
        score = log_score_of(self.log_probabilities, self.log_mean_square, self.num_samples)
        return torch.where(self.probabilities > 0, self.probabilities * score.standard_error, 0.0)

    @property
    def classes(self) -> Tensor:
        """The most probable class of each datum, shape ``[*batch]``."""
        return self.log_probabilities.argmax(-1)

    @cached_property
    def mean(self) -> Tensor:
        return (self.probabilities * self._numbers).sum(-1)

    @cached_property
    def variance(self) -> Tensor:
        return (self.probabilities * (self._numbers - self.mean.unsqueeze(-1)) ** 2).sum(-1)

    @property
    def _numbers(self) -> Tensor:
        number = self.log_probabilities.shape[-1]
        return torch.arange(number, device=self.log_probabilities.device)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the predictive distribution in nats: the whole uncertainty, ``[*batch]``."""
        return torch.special.entr(self.probabilities).sum(-1)

    @property
    def mutual_information(self) -> Tensor:
        """Between the class and the weights, in nats: what more data could resolve, ``[*batch]``.

        References:
            :cite:p:`houlsby2011bald`
        """
        return (self.entropy - self.expected_entropy).clamp_min(0)

    def log_score(self, y: Tensor) -> LogScore:
        index = self._index(y)
        log_mean, log_square = (
            values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
            for values in (self.log_probabilities, self.log_mean_square)
        )
        return log_score_of(log_mean, log_square, self.num_samples)

    def calibration(self, y: Tensor, *, bins: int = 15) -> Calibration:
        """How far confidence and accuracy agree: ECE, Brier score and NLL.

        Args:
            y: the classes that were seen, shape ``[*batch]``.
            bins: bins of confidence, equally wide.

        Raises:
            InvalidArgument: if ``y`` has another shape, or is none of the classes.
        """
        return calibration(self.probabilities, self._index(y), bins=bins)

    def _index(self, y: Tensor) -> Tensor:
        self.refuse_shape(y)
        number = self.log_probabilities.shape[-1]
        if not bool(((y >= 0) & (y < number) & (y == y.round())).all()):
            raise InvalidArgument(
                f"site {self.site!r}: y must be a class, 0 to {number - 1}; found values from "
                f"{y.min().item()} to {y.max().item()}"
            )
        return y.long()


def has_classes(law: Any) -> bool:
    """Whether a likelihood is of one number out of few: 0, 1, … up to the same for every datum."""
    if law.event_shape or not getattr(law, "has_enumerate_support", False):
        return False
    try:
        support = law.enumerate_support(expand=False)
    except NotImplementedError:  # not the same for every datum
        return False
    numbers = torch.arange(len(support), device=support.device)
    return len(support) <= _MOST_CLASSES and bool((support.flatten() == numbers).all())


def average_classes(site: str, laws: Iterable[Laws]) -> ClassPrediction:
    """The prediction from the likelihood's laws, which are taken one after the other."""
    total = square = entropy = None
    number = 0
    for part in laws:
        log_p = part.each(_log_probabilities, before=1).movedim(1, -1)
        # Not log p + exp of it: zero times minus infinity is zero here.
        sums = log_p.logsumexp(0), (2 * log_p).logsumexp(0), _entropy(log_p).sum(0)
        if total is None or square is None or entropy is None:
            total, square, entropy = sums
        else:
            total, square = total.logaddexp(sums[0]), square.logaddexp(sums[1])
            entropy = entropy + sums[2]
        number += len(part)
    if total is None or square is None or entropy is None:
        raise InvalidArgument("predict: there is no draw")
    log_number = math.log(number)
    return ClassPrediction(site, number, total - log_number, square - log_number, entropy / number)


def _log_probabilities(law: Any) -> Tensor:
    """Of every class: ``[C, *batch]``."""
    return law.log_prob(law.enumerate_support(expand=False))


def _entropy(log_p: Tensor) -> Tensor:
    return torch.special.entr(log_p.exp()).sum(-1)
