r"""Whether an estimate of the gradient agrees with a reference, parameter by parameter.

Every element i of every parameter has a z-score

.. math:: z_i = \frac{\hat g_i - g_i}{\sqrt{s_i^2 + r_i^2}}

with s the standard error of the estimate and r that of the reference.  A difference within rounding
counts as none; beyond it, where nothing was left to chance, as infinitely many standard errors.  A
parameter is called biased if some \|z\| exceeds the normal quantile at level / (2 N) for N elements
in all (Bonferroni): if there is no bias, any parameter is called biased with a probability of at
most the level, whatever the elements' correlations, as far as the means are normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.tables import aligned, as_html
from pyro_dsvi.errors import InvalidArgument


class Verdict(Enum):
    """What the comparison of one parameter's gradient came to."""

    UNBIASED = "unbiased"
    NO_BIAS_SEEN = "no bias seen"
    BIASED = "biased"
    NOT_FINITE = "not finite"


@dataclass(frozen=True, eq=False)
class Row:
    """One parameter.  All tensors have the parameter's (unconstrained) shape.

    Attributes:
        parameter: its name.
        mean: mean of the estimates.
        reference: what it should be.
        standard_error: of their difference.
        rounding: difference that is put down to floating point.
        z: the difference less rounding, in standard errors.
        critical: the largest absolute z that passes.
        exact: whether neither side left anything to chance.
    """

    parameter: str
    mean: Tensor
    reference: Tensor
    standard_error: Tensor
    rounding: Tensor
    z: Tensor
    critical: float
    exact: bool

    @property
    def verdict(self) -> Verdict:
        """Biased if some element is; "unbiased" only where every draw was visited."""
        if not (self.mean.isfinite().all() and self.reference.isfinite().all()):
            return Verdict.NOT_FINITE
        if (self.z.abs() > self.critical).any():
            return Verdict.BIASED
        return Verdict.UNBIASED if self.exact else Verdict.NO_BIAS_SEEN

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against the estimate."""
        return self.verdict in (Verdict.UNBIASED, Verdict.NO_BIAS_SEEN)

    @property
    def worst(self) -> tuple[int, ...]:
        """Index of the element whose z is furthest from zero."""
        if not self.z.numel():
            return ()
        difference = (self.mean - self.reference).abs()
        size = torch.where(self.z.isinf(), 1e300 * (1 + difference / (1 + difference)), self.z)
        flat = int(size.abs().nan_to_num(torch.inf).argmax())
        return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), self.z.shape))

    @property
    def detectable(self) -> float:
        """The bias of a single element that would have been seen with a probability of 98 %."""
        if not self.z.numel():
            return 0.0
        return float(((self.critical + 2) * self.standard_error + self.rounding).max())


@dataclass(frozen=True, eq=False)
class Certificate:
    """The outcome of :func:`check_unbiased`: a row for each parameter; prints as a table.

    Attributes:
        rows: the parameters, in the order in which the programs name them.
        estimate: how the objective's expected gradient was found, in words.
        reference: how the reference was found, in words.
        bound: the bound whose gradient it is, in words.
        level: probability of calling any parameter of an unbiased objective biased.
    """

    rows: tuple[Row, ...]
    estimate: str
    reference: str
    bound: str
    level: float

    @property
    def unbiased(self) -> bool:
        """Whether nothing speaks against any parameter's gradient."""
        return all(row.passes for row in self.rows)

    @property
    def exact(self) -> bool:
        """Whether neither side left anything to chance."""
        return all(row.exact for row in self.rows)

    @property
    def detectable(self) -> float:
        """The smallest bias of one element that would surely have been seen, anywhere.

        Relative to the norm of the reference over all parameters; infinite where that is zero.
        """
        norm = float(sum(row.reference.square().sum() for row in self.rows)) ** 0.5
        largest = max((row.detectable for row in self.rows), default=0.0)
        return largest / norm if norm else torch.inf if largest else 0.0

    def __getitem__(self, parameter: str) -> Row:
        for row in self.rows:
            if row.parameter == parameter:
                return row
        raise KeyError(parameter)

    def table(self) -> list[dict[str, Any]]:
        """One record a parameter: its worst element's numbers, and the verdict on all."""
        return [
            {
                "parameter": row.parameter,
                "elements": row.z.numel(),
                "worst": ", ".join(map(str, row.worst)),
                "mean": _at(row.mean, row),
                "reference": _at(row.reference, row),
                "standard error": _at(row.standard_error, row),
                "z": _at(row.z, row),
                "verdict": row.verdict.value,
            }
            for row in self.rows
        ]

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, by parameter."""
        import pandas as pd

        columns = ("elements", "worst", "mean", "reference", "standard error", "z", "verdict")
        frame = pd.DataFrame(self.table(), columns=["parameter", *columns])
        return frame.set_index("parameter")

    def __str__(self) -> str:
        return "\n".join(
            [*self._head(), "", *aligned(_texts(self.table()), left=(0, -1)), "", self._power()]
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<div>{escape(line)}</div>" for line in self._head())
        table = as_html(_texts(self.table()))
        return f"{head}{table}<div>{escape(self._power())}</div>"

    def _head(self) -> list[str]:
        return [
            f"gradient of {self.bound}",
            f"estimate:  {self.estimate}",
            f"reference: {self.reference}",
        ]

    def _power(self) -> str:
        biased = [row.parameter for row in self.rows if not row.passes]
        if biased:
            return f"biased: {', '.join(biased)}"
        if not self.rows:
            return "the programs have no parameters"
        if self.exact:
            return "unbiased: the two agree within rounding"
        critical = self.rows[0].critical
        return (
            f"no bias seen: every |z| < {critical:.2f}; a bias of {self.detectable:.1%} of the "
            "gradient's norm in any one element would have been seen"
        )


def compare(
    estimate: Gradient, reference: Gradient, *, bound: str = "the bound", level: float = 1e-3
) -> Certificate:
    """Compare an estimate with a reference, parameter by parameter.

    Args:
        estimate: the objective's expected gradient.
        reference: what it should be.
        bound: the bound whose gradient it is, in words.
        level: probability of calling any parameter of an unbiased objective biased.

    Raises:
        InvalidArgument: if ``level`` is outside (0, 1).
    """
    check_level(level)
    elements = max(1, sum(mean.numel() for mean in reference.mean.values()))
    tail = torch.tensor(level / (2 * elements), dtype=torch.float64)
    critical = -float(torch.special.ndtri(tail))
    exact = estimate.exact and reference.exact
    rows = [
        _row(name, estimate, reference, critical=critical, exact=exact) for name in reference.mean
    ]
    return Certificate(tuple(rows), estimate.how, reference.how, bound, level)


def check_level(level: float) -> None:
    """Refuse a level that is no probability.

    Raises:
        InvalidArgument: if ``level`` is outside (0, 1).
    """
    if not 0 < level < 1:
        raise InvalidArgument(f"level must be between 0 and 1, got {level!r}; e.g. 1e-3")


def _row(
    name: str, estimate: Gradient, reference: Gradient, *, critical: float, exact: bool
) -> Row:
    mean, wanted = estimate.mean[name], reference.mean[name]
    error = torch.hypot(estimate.standard_error[name], reference.standard_error[name])
    within = estimate.rounding[name] + reference.rounding[name]
    difference = mean - wanted
    excess = difference.sign() * (difference.abs() - within).clamp(min=0)
    z = torch.where(excess == 0, excess, excess / error)  # x / 0 is infinite, as it should be
    return Row(name, mean, wanted, error, within, z, critical, exact)


def _at(x: Tensor, row: Row) -> float:
    return float(x[row.worst]) if x.numel() else 0.0


def _texts(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    names = ["parameter", "elements", "worst", "mean", "reference", "standard error", "z"]
    rows = [[*names, "verdict"]]
    for record in records:
        cells = [str(record["parameter"]), str(record["elements"]), record["worst"] or "-"]
        cells += [f"{record[name]:.6g}" for name in names[3:5]]
        cells += [f"{record['standard error']:.2g}", f"{record['z']:.2f}", record["verdict"]]
        rows.append(cells)
    return rows
