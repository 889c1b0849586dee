r"""What estimators of a gradient are worth, side by side: bias, variance, consistency, cost.

Of an estimate g from a step of K particles that takes t seconds, per parameter and over all:

- bias: :math:`\|\mathbb{E} g - \nabla J\|`, and the largest z-score of an element;
- variance: :math:`\operatorname{tr} \operatorname{Var} g`, with a 95 % interval;
- signal to noise: :math:`\|\mathbb{E} g\| / \sqrt{\operatorname{tr} \operatorname{Var} g}`;
- consistency: the root mean squared error of a mean over S draws of the guide, and the exponent r
  of :math:`S^r` that fits it: -1/2 for what is unbiased, nearer 0 where a bias remains;
- efficiency: :math:`K \operatorname{tr} \operatorname{Var} g`, what the variance comes to at equal
  samples, and :math:`t \operatorname{tr} \operatorname{Var} g`, at equal seconds; and memory.

References:
    :cite:p:`mohamed2020mcgrad`, :cite:p:`rainforth2018tighter`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_dsvi.diagnostics.certificate import Certificate, Verdict
from pyro_dsvi.diagnostics.tables import aligned, as_html, size_in_words
from pyro_dsvi.diagnostics.tally import Spread, fitted_rate

ALL = "all"


@dataclass(frozen=True)
class Quality:
    """What one objective's estimate of one parameter's gradient is worth, or of all of them.

    Attributes:
        objective: its name.
        parameter: the parameter's name, or "all".
        elements: how many numbers it has.
        bias: norm of the difference from the reference, in nats per unit of the parameter.
        z: the element's z-score that is furthest from zero.
        verdict: what the z-scores come to.
        variance: variance of one step's estimate, summed over elements.
        signal_to_noise: norm of the mean over the square root of the variance.
        errors: root mean squared error by number of draws of the guide.
        rate: exponent of the number of draws that fits the errors; NaN where there is no error.
        particles: draws of the guide in a step.
        seconds: of a step, the median.
        memory: bytes a step keeps for its backward pass (on a GPU the peak of what it allocates);
            NaN where that cannot be told.
    """

    objective: str
    parameter: str
    elements: int
    bias: float
    z: float
    verdict: Verdict
    variance: Spread
    signal_to_noise: float
    errors: tuple[tuple[int, float], ...]
    rate: float
    particles: int
    seconds: float
    memory: float

    @property
    def at_equal_samples(self) -> float:
        """Variance times draws: the variance that one draw of the guide would leave, in nats²."""
        return self.variance.value * self.particles

    @property
    def at_equal_seconds(self) -> float:
        """Variance times time: the variance of the mean after one second, in nats² seconds."""
        return self.variance.value * self.seconds

    def record(self) -> dict[str, Any]:
        """Its numbers by column."""
        return {
            "objective": self.objective,
            "parameter": self.parameter,
            "elements": self.elements,
            "bias": self.bias,
            "z": self.z,
            "verdict": self.verdict.value,
            "variance": self.variance.value,
            "variance, low": self.variance.low,
            "variance, high": self.variance.high,
            "signal to noise": self.signal_to_noise,
            "rate": self.rate,
            "particles": self.particles,
            "variance x particles": self.at_equal_samples,
            "seconds a step": self.seconds,
            "variance x seconds": self.at_equal_seconds,
            "memory": self.memory,
        }


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one objective's estimates are worth.

    Attributes:
        name: the objective's name.
        total: over all parameters.
        rows: by parameter.
        variance_by_site: variance of the gradient in the parameters that a site's distribution is
            computed from, in nats², by site of the guide.
        certificate: its mean beside the reference, element by element.
        steps: how many were made.
        exact: whether every draw was visited, so that mean and variance are exact.
    """

    name: str
    total: Quality
    rows: tuple[Quality, ...]
    variance_by_site: Mapping[str, float]
    certificate: Certificate
    steps: int
    exact: bool

    def __getitem__(self, parameter: str) -> Quality:
        for row in self.rows:
            if row.parameter == parameter:
                return row
        raise KeyError(parameter)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The outcome of :func:`compare_estimators`; prints as a table, plots, goes to pandas.

    Attributes:
        measurements: the objectives, in the order given.
        level: probability of calling any parameter of an unbiased objective biased.
    """

    measurements: tuple[Measurement, ...]
    level: float

    def __getitem__(self, objective: str) -> Measurement:
        for measurement in self.measurements:
            if measurement.name == objective:
                return measurement
        raise KeyError(objective)

    @property
    def best_at_equal_samples(self) -> Measurement:
        """The unbiased objective of least variance a draw; of all, if none is unbiased."""
        return min(self._eligible(), key=lambda m: m.total.at_equal_samples)

    @property
    def best_at_equal_seconds(self) -> Measurement:
        """The unbiased objective of least variance times time; of all, if none is unbiased."""
        return min(self._eligible(), key=lambda m: m.total.at_equal_seconds)

    def table(self) -> list[dict[str, Any]]:
        """One record for each objective over all parameters, and one for each parameter."""
        return [row.record() for m in self.measurements for row in (m.total, *m.rows)]

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, by objective and parameter."""
        import pandas as pd

        return pd.DataFrame(self.table()).set_index(["objective", "parameter"])

    def plot(self) -> Any:
        """Variance, error by samples, efficiency and bias: a ``matplotlib`` figure."""
        from pyro_dsvi.diagnostics.figures import draw_comparison

        return draw_comparison(self)

    def __str__(self) -> str:
        totals, rows = self._cells()
        lines = [*self._head(), "", *aligned(totals, left=(0, 3))]
        if rows[1:]:
            lines += ["", *aligned(rows, left=(0, 1, 4))]
        return "\n".join([*lines, "", self._advice()])

    def _repr_html_(self) -> str:
        totals, rows = self._cells()
        head = "".join(f"<div>{line}</div>" for line in (*self._head(), self._advice()))
        return head + as_html(totals) + as_html(rows)

    def _eligible(self) -> Sequence[Measurement]:
        unbiased = [m for m in self.measurements if m.certificate.unbiased]
        return unbiased or self.measurements

    def _head(self) -> list[str]:
        told = {m.certificate.reference: None for m in self.measurements}
        return [
            "bias and variance of a step's gradient: nats and nats² per (squared) unit of the "
            "unconstrained parameters",
            *(f"reference: {reference}" for reference in told),
        ]

    def _cells(self) -> tuple[list[list[str]], list[list[str]]]:
        totals = [["objective", "bias", "z", "verdict", "variance", "95 %", "signal/noise", "rate"]]
        totals[0] += ["variance x particles", "s a step", "variance x s", "memory"]
        rows = [["parameter", "objective", "bias", "z", "verdict", "variance", "95 %"]]
        rows[0] += ["signal/noise", "rate"]
        for m in self.measurements:
            row = m.total
            cost = [f"{row.at_equal_samples:.3g}", f"{row.seconds:.2g}"]
            cost += [f"{row.at_equal_seconds:.2g}", _memory(row.memory)]
            totals.append([m.name, *_quality(row, m.exact), *cost])
        for i in range(max((len(m.rows) for m in self.measurements), default=0)):
            for m in self.measurements:
                if i < len(m.rows):
                    row = m.rows[i]
                    rows.append([row.parameter, m.name, *_quality(row, m.exact)])
        return totals, rows

    def _advice(self) -> str:
        samples, seconds = self.best_at_equal_samples, self.best_at_equal_seconds
        kind = "unbiased objectives" if samples.certificate.unbiased else "objectives"
        if samples is seconds:
            return f"least variance of the {kind}, at equal samples and seconds: {samples.name}"
        return (
            f"least variance of the {kind}, at equal samples: {samples.name}; at equal seconds: "
            f"{seconds.name}"
        )


def quality_of(
    name: str,
    parameter: str | None,
    certificate: Certificate,
    variance: Spread,
    errors: Sequence[tuple[int, float, int]],
    *,
    steps: int,
    particles: int,
    seconds: float,
    memory: float,
) -> Quality:
    """Put the numbers of one parameter, or of all, together.

    Args:
        name: the objective's name.
        parameter: the parameter, or None for all.
        certificate: mean and reference by element.
        variance: of one step.
        errors: root mean squared error by number of steps, and how many blocks it rests on.
        steps: that the mean was taken over; 0 where it is exact.
        particles: of a step.
        seconds: of a step.
        memory: of a step, in bytes.
    """
    rows = [row for row in certificate.rows if parameter in (None, row.parameter)]
    verdicts = [row.verdict for row in rows]
    worst = [_worst_z(row.z) for row in rows]
    signal = sum(float(row.mean.square().sum()) for row in rows)
    if steps:  # the noise of the mean adds to its length
        signal = max(0.0, signal - variance.value / steps)
    noise = math.sqrt(variance.value)
    bias = math.sqrt(sum(float((row.mean - row.reference).square().sum()) for row in rows))
    return Quality(
        name,
        parameter or ALL,
        sum(row.z.numel() for row in rows),
        bias,
        max(worst, key=abs, default=0.0),
        max(verdicts, key=_GRAVITY.index, default=Verdict.UNBIASED),
        variance,
        math.sqrt(signal) / noise if noise else math.inf if signal else 0.0,
        tuple((particles * n, error) for n, error, _ in errors),
        fitted_rate(errors),
        particles,
        seconds,
        memory,
    )


_GRAVITY = [Verdict.UNBIASED, Verdict.NO_BIAS_SEEN, Verdict.BIASED, Verdict.NOT_FINITE]


def _worst_z(z: Any) -> float:
    return float(z.flatten()[z.abs().argmax()]) if z.numel() else 0.0


def _quality(row: Quality, exact: bool) -> list[str]:
    v = row.variance
    between = "exact" if exact else f"{v.low:.3g} .. {v.high:.3g}"
    rate = "-" if math.isnan(row.rate) else f"{row.rate:.2f}"
    z = f"{row.z:.2f}".replace("-0.00", "0.00")
    cells = [f"{row.bias:.2g}", z, row.verdict.value, f"{v.value:.4g}", between]
    return [*cells, f"{row.signal_to_noise:.3g}", rate]


def _memory(size: float) -> str:
    return "-" if math.isnan(size) else size_in_words(size)
