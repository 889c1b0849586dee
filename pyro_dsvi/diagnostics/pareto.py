r"""How heavy the tail of importance weights is, and what can be said from them.

The largest weights are fitted by a generalised Pareto distribution of shape k, below which order
moments are finite: the variance of the weights for k < 1/2, their mean for k < 1.  They are then
replaced by the fit's quantiles (Pareto smoothed importance sampling).  For estimates from S draws
to be reliable, k̂ should stay below :math:`\min(1 - 1 / \log_{10} S,\ 0.7)`.

References:
    :cite:p:`yao2018vi`, :cite:p:`vehtari2024psis`
"""

import math
from dataclasses import dataclass

import numpy as np

GOOD, CAP, NO_MEAN = 0.5, 0.7, 1.0


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Importance weights of many quantities, smoothed.

    Attributes:
        pareto_k: k̂ of each; 0 where all weights are alike, NaN where too few differ for a fit.
        log_weights: smoothed, normalised to sum to one, shape ``[quantities, S]``.
        effective: effective sample size, 1 / Σ w².
        log_mean: log of the mean weight, in nats.
        standard_error: of ``log_mean``, to first order; means nothing where k̂ is above 1/2.
    """

    pareto_k: np.ndarray
    log_weights: np.ndarray
    effective: np.ndarray
    log_mean: np.ndarray
    standard_error: np.ndarray


def smooth(log_w: np.ndarray) -> Smoothed:
    """Smooth log weights.

    Args:
        log_w: log weights in nats, shape ``[quantities, S]``.
    """
    from scipy.special import logsumexp  # slow to load

    log_w = np.asarray(log_w)
    doubt = 1e3 * np.finfo(log_w.dtype).eps * np.maximum(1, np.abs(log_w).max(1))
    exact = np.ascontiguousarray(log_w, dtype=np.float64)
    S = exact.shape[1]
    smoothed, k = _psis(exact)
    k = np.atleast_1d(np.asarray(k, dtype=np.float64)).copy()
    alike = np.ptp(exact, axis=1) <= doubt
    few = np.array([len(np.unique(row)) <= S / 10 for row in exact])
    k[few & np.isinf(k)] = np.nan
    k[alike] = 0.0
    unfitted = ~np.isfinite(k) | alike
    smoothed[unfitted] = exact[unfitted]
    total = logsumexp(smoothed, axis=1, keepdims=True)
    normal = smoothed - total
    squares = np.exp(2 * normal).sum(1)
    error = np.sqrt(np.maximum(0, squares - 1 / S))
    return Smoothed(k, normal, 1 / squares, total[:, 0] - math.log(S), error)


def threshold(num_samples: int) -> float:
    """The k̂ above which estimates from so many draws are not reliable.

    Example:
        >>> round(threshold(1000), 3)
        0.667
    """
    return min(1 - 1 / math.log10(num_samples), CAP)


def meaning(k: float, num_samples: int) -> str:
    """A value of k̂ in plain words.

    Example:
        >>> print(meaning(0.3, 1000))
        the guide is close: weights have finite variance, and corrected estimates can be trusted
    """
    limit = threshold(num_samples)
    if math.isnan(k):
        return "the weights take too few values for a fit; go by the effective sample size"
    if k < min(GOOD, limit):
        return (
            "the guide is close: weights have finite variance, and corrected estimates can be "
            "trusted"
        )
    if k < limit:
        return (
            "the guide is usable: weights have a heavy tail, but corrected estimates can be "
            "trusted, and are better than the guide's own"
        )
    if k < CAP:
        needed = math.ceil(10 ** (1 / (1 - k)))
        return (
            f"too heavy a tail for {num_samples} draws: neither the guide nor corrected estimates "
            f"can be trusted yet; about {needed} draws would be enough to correct them"
        )
    if k < NO_MEAN:
        return (
            "the guide misses much of the posterior: neither it nor corrected estimates can be "
            "trusted, however many draws; look for a richer guide or another parametrisation"
        )
    return (
        "the weights have no finite mean: the guide misses the posterior's bulk or tails, and "
        "nothing computed from it can be trusted; look for a richer guide"
    )


def _psis(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed log weights, not normalised, and k̂, by whichever arviz is there."""
    try:
        from arviz import psislw
    except ImportError:  # arviz 1, which turns the sign of what it is given, and normalises
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

        smoothed, k = array_stats.psislw(-log_w)
        least = log_w.argmin(1)[:, None]  # which no tail holds
        return smoothed + np.take_along_axis(log_w - smoothed, least, 1), k
    smoothed, k = psislw(log_w, normalize=False)
    return np.asarray(smoothed), np.asarray(k)
