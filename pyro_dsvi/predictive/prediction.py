r"""What every prediction answers, whatever is predicted.

Draws :math:`w_s` of the posterior, S of them, stand for it:

.. math:: p(y^* \mid x^*, X, Y) = \mathbb{E}_{q(w)}\, p(y^* \mid x^*, w)
    \approx \frac1S \sum_s p(y^* \mid x^*, w_s)

What is averaged is the probability (or the density), and nothing else: a mean of logits, of
parameters or of log probabilities belongs to another predictive.  The log score of a datum is the
logarithm of that mean, taken without leaving the logarithm's range, and by the delta method

.. math:: \log \hat p = \operatorname{logsumexp}_s \log p_s - \log S, \qquad
    \mathrm{se} = \sqrt{\frac{\overline{p^2} / \hat p^2 - 1}{S - 1}}

Since the logarithm is concave, its expectation lies below :math:`\log p`, by about
:math:`\mathrm{se}^2 / 2`.

References:
    :cite:p:`gneiting2007scoring`
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class LogScore:
    """Log of the posterior predictive probability of what was seen, datum by datum.

    Attributes:
        value: in nats, shape ``[*batch]``.
        standard_error: its Monte Carlo error, of the same shape, for independent draws; those of a
            Markov chain hold less, and the error is larger then.  NaN for a single draw.
    """

    value: Tensor
    standard_error: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over the data, in nats: the negative of what is called NLL or log loss."""
        return self.value.mean()

    @property
    def mean_standard_error(self) -> Tensor:
        """At most this is the error of :attr:`mean`; the data share their draws, so it adds up."""
        return self.standard_error.mean()


def log_score_of(log_mean: Tensor, log_mean_square: Tensor, num_samples: int) -> LogScore:
    """The score from the logarithms of the mean of p and of p², both in nats."""
    excess = ((log_mean_square - 2 * log_mean).exp() - 1).clamp_min(0)
    error = (excess / (num_samples - 1)).sqrt() if num_samples > 1 else excess * math.nan
    # Where no draw gives it a probability, nothing tells how far from zero it is.
    return LogScore(log_mean, torch.where(log_mean.isneginf(), math.inf, error))


@dataclass(frozen=True, eq=False)
class Prediction(ABC):
    """A posterior predictive distribution, of each datum.

    Attributes:
        site: name of the site that is predicted.
        num_samples: draws of the posterior behind it.
    """

    site: str
    num_samples: int

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """Shape of the data: the plates of the site."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """Shape of one datum."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Mean of the predictive distribution, shape ``[*batch, *event]``."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Its variance: the mean of the draws' variances, and the variance of their means."""

    @abstractmethod
    def log_score(self, y: Tensor) -> LogScore:
        """Log of the predictive probability (or density) of what was seen, in nats.

        Args:
            y: what was seen, shape ``[*batch, *event]``.

        Returns:
            The score of each datum, with its Monte Carlo standard error.

        Raises:
            InvalidArgument: if ``y`` has another shape.
        """

    def refuse_shape(self, y: Tensor) -> None:
        """Refuse what would only broadcast to the data's shape."""
        expected = self.batch_shape + self.event_shape
        if y.shape != expected:
            raise InvalidArgument(
                f"site {self.site!r}: y has shape {tuple(y.shape)}, but what is predicted has "
                f"shape {tuple(expected)}; reshape y"
            )
