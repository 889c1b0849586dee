"""Figures of calibration, against sums by hand."""

import math

import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument


def by_hand(p, y, bins):
    """Datum by datum, in Python's numbers."""
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    brier = nll = 0.0
    for row, seen in zip(p.tolist(), y.tolist(), strict=True):
        top = max(row)
        rows[min(int(top * bins), bins - 1)].append((top, row.index(top) == seen))
        brier += sum((q - (c == seen)) ** 2 for c, q in enumerate(row))
        nll -= math.log(row[seen])
    gaps = [abs(sum(r for _, r in b) - sum(c for c, _ in b)) for b in rows]
    return sum(gaps) / len(y), brier / len(y), nll / len(y)


def test_against_sums_by_hand():
    p = torch.randn(300, 4, dtype=torch.float64).softmax(-1)
    p[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    y = torch.distributions.Categorical(p).sample()
    found = dsvi.diagnostics.calibration(p, y, bins=10)
    expected = by_hand(p, y, 10)
    assert (found.ece, found.brier, found.nll) == pytest.approx(expected, abs=1e-12)
    assert int(found.count.sum()) == 300
    assert found.error == pytest.approx(float((p.argmax(-1) != y).double().mean()), abs=1e-12)


def test_the_known_cases():
    """A fair coin that is called fair is calibrated; the sure and wrong one is off by one."""
    fair = dsvi.diagnostics.calibration(torch.full((2, 2), 0.5), torch.tensor([0, 1]))
    assert (fair.ece, fair.brier, fair.nll) == pytest.approx((0.0, 0.5, math.log(2)))
    wrong = dsvi.diagnostics.calibration(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert (wrong.ece, wrong.brier, wrong.error) == (1.0, 2.0, 1.0)
    assert wrong.nll == math.inf


def test_plates_are_data():
    p = torch.rand(3, 5, 2).softmax(-1)
    y = torch.randint(2, (3, 5))
    found = dsvi.diagnostics.calibration(p, y)
    flat = dsvi.diagnostics.calibration(p.reshape(15, 2), y.reshape(15))
    assert (found.ece, found.brier, found.nll) == (flat.ece, flat.brier, flat.nll)


@pytest.mark.parametrize(
    ("p", "y", "bins", "words"),
    [
        (torch.full((3, 2), 0.5), torch.zeros(3, 1), 15, r"found \(3, 2\) and \(3, 1\)"),
        (torch.full((0, 2), 0.5), torch.zeros(0), 15, "at least one datum"),
        (torch.full((3, 2), 0.5), torch.zeros(3), 0, "bins must be at least 1"),
        (torch.full((3, 2), 2.5), torch.zeros(3), 15, "not logits"),
        (torch.tensor([[-0.5, 1.5]]), torch.zeros(1), 15, "not logits"),
        (torch.full((3, 2), 0.5), torch.full((3,), 2), 15, "classes must be 0 to 1"),
    ],
)
def test_refused(p, y, bins, words):
    with pytest.raises(InvalidArgument, match=words):
        dsvi.diagnostics.calibration(p, y, bins=bins)
