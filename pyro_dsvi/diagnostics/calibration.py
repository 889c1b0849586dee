r"""How far predicted probabilities agree with what was seen.

With :math:`p_{nc}` the probability of class c for datum n, :math:`\hat p_n = \max_c p_{nc}` its
confidence, and :math:`B_i` the data whose confidence falls into bin i,

.. math::

    \mathrm{ECE} &= \sum_i \frac{|B_i|}{N} \, \big| \mathrm{acc}(B_i) - \mathrm{conf}(B_i) \big| \\
    \mathrm{Brier} &= \frac1N \sum_n \sum_c (p_{nc} - [y_n = c])^2 \\
    \mathrm{NLL} &= -\frac1N \sum_n \log p_{n y_n}

The Brier score is summed over classes, as Brier had it, so for two classes it is twice the squared
error of one probability.  The calibration error depends on the bins and is biased upward where data
are few; the other two are proper scores.

References:
    :cite:p:`brier1950`, :cite:p:`naeini2015calibration`, :cite:p:`guo2017calibration`,
    :cite:p:`gneiting2007scoring`
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Calibration:
    """Figures of calibration, and the bins behind one of them.

    Attributes:
        ece: expected calibration error, in [0, 1].
        brier: Brier score, in [0, 2].
        nll: negative log likelihood of a datum, in nats.
        error: share of the data whose most probable class is another than that seen.
        confidence: mean confidence in each bin, NaN where it is empty, shape ``[bins]``.
        accuracy: share of right classes in each bin, NaN where it is empty, shape ``[bins]``.
        count: data in each bin, shape ``[bins]``.
    """

    ece: float
    brier: float
    nll: float
    error: float
    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def calibration(probabilities: Tensor, y: Tensor, *, bins: int = 15) -> Calibration:
    """Compare probabilities of classes with the classes that were seen.

    Args:
        probabilities: of each class, shape ``[*batch, C]``.
        y: the classes, integers in 0 … C − 1, shape ``[*batch]``.
        bins: bins of confidence, equally wide over [0, 1]; the last one holds 1.

    Raises:
        InvalidArgument: if shapes disagree, there are no data, there is no bin, or rows are no
            probabilities.

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]])
        >>> found = dsvi.diagnostics.calibration(p, torch.tensor([0, 1, 0, 1]))
        >>> round(found.ece, 3), round(found.brier, 3), round(found.nll, 3)
        (0.125, 0.285, 0.439)
    """
    _refuse(probabilities, y, bins)
    p, y = probabilities.flatten(0, -2).double(), y.flatten().long()
    confidence, guess = p.max(-1)
    right = (guess == y).double()
    which = (confidence * bins).long().clamp_max(bins - 1)
    count = torch.bincount(which, minlength=bins)
    sum_confidence = torch.bincount(which, confidence, minlength=bins)
    sum_right = torch.bincount(which, right, minlength=bins)
    seen = torch.nn.functional.one_hot(y, p.shape[-1])
    return Calibration(
        ece=float((sum_right - sum_confidence).abs().sum() / len(y)),
        brier=float(((p - seen) ** 2).sum(-1).mean()),
        nll=float(-p.gather(-1, y.unsqueeze(-1)).log().mean()),
        error=float(1 - right.mean()),
        confidence=sum_confidence / count,
        accuracy=sum_right / count,
        count=count,
    )


def _refuse(probabilities: Tensor, y: Tensor, bins: int) -> None:
    if probabilities.dim() < 1 or probabilities.shape[:-1] != y.shape or y.numel() == 0:
        raise InvalidArgument(
            f"calibration: probabilities [*batch, C] and classes [*batch] are wanted, and at least "
            f"one datum; found {tuple(probabilities.shape)} and {tuple(y.shape)}"
        )
    if bins < 1:
        raise InvalidArgument(f"calibration: bins must be at least 1, got {bins}")
    total = probabilities.sum(-1)
    if bool((probabilities < 0).any()) or not torch.allclose(total, torch.ones_like(total), 1e-3):
        raise InvalidArgument(
            "calibration: each row must be probabilities that sum to one; give probabilities, not "
            "logits"
        )
    if not bool(((y >= 0) & (y < probabilities.shape[-1])).all()):
        raise InvalidArgument(
            f"calibration: classes must be 0 to {probabilities.shape[-1] - 1}, got "
            f"{y.min().item()} to {y.max().item()}"
        )
