r"""Signal to noise of the gradient against K: falls for IWAE's guide, rises for DReG's.

.. math:: \mathrm{SNR} = \frac{|\mathbb{E}[\hat g]|}{\sqrt{\mathrm{Var}[\hat g]}}, \qquad
    \mathrm{SNR}_\varphi \sim K^{-1/2} \text{ (IWAE)}, \quad
    \mathrm{SNR}_\varphi \sim K^{1/2} \text{ (DReG)}, \quad
    \mathrm{SNR}_\theta \sim K^{1/2}

(:cite:p:`rainforth2018tighter`, :cite:p:`tucker2019dreg`), on the linear-Gaussian model

.. math:: z \sim N(b, I), \quad x \mid z \sim N(W z, \sigma^2 I), \quad
    z \sim N(m, \mathrm{diag}(s^2)) \text{ (guide)}

whose guide is off in place and in width.  Copies in a plate have parameters of their own, so that
one step gives as many independent estimates of the gradient.  Both estimators have one expectation;
for the guide it is taken from DReG, which varies less, and IWAE's own mean is held against it.  The
powers are those of many particles: at few, DReG's ratio may fall a little before it rises.
"""

import math
from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval
from benchmarks.report import Lines, Report, Settings, Table, Target

NAME = "snr"
NOISE, WIDER, OFF = 0.5, 1.3, 0.6  # the guide's scales and its distance, in posterior deviations
FITTED_FROM = 16  # particles, from which on the powers are fitted
RESAMPLES = 400
WITHIN = 0.05
AT_ONCE = 2**18  # draws of a latent
IWAE, DREG = "IWAE", "DReG"
OBJECTIVES: Mapping[str, Callable[..., dsvi.Objective]] = {IWAE: dsvi.IWAE, DREG: dsvi.DReG}
POWERS = {  # of K, by estimator and parameter
    (IWAE, "guide's mean"): -0.5,
    (IWAE, "guide's log scale"): -0.5,
    (DREG, "guide's mean"): 0.5,
    (DREG, "guide's log scale"): 0.5,
    (IWAE, "model's b"): 0.5,
}
Gradients = dict[str, Tensor]


def run(settings: Settings) -> Report:
    """Estimate the ratio for each number of particles, and the power of K that it follows."""
    sizes = (16, 32, 64) if settings.quick else tuple(2**i for i in range(11))
    copies = 400 if settings.quick else 2**13
    torch.manual_seed(settings.seed)
    pyro.set_rng_seed(settings.seed)
    problem = Problem()
    ratios: dict[tuple[str, str], list[Tensor]] = {which: [] for which in POWERS}
    scores = []
    for size in sizes:
        found = {name: problem.gradients(make, size, copies) for name, make in OBJECTIVES.items()}
        for name, parameter in POWERS:
            whose = name if parameter.startswith("model") else DREG
            signal, _ = moments(found[whose][parameter])
            _, noise = moments(found[name][parameter])
            ratios[name, parameter].append((signal.abs() / noise).log().mean(-1).exp())
        scores.append(max(score(found[IWAE][p], found[DREG][p]) for p in found[IWAE]))
    report = Report(NAME, "Signal to noise of the gradient against K, linear-Gaussian model")
    report.notes = [
        f"{copies} independent gradients for each K and estimator; geometric mean over coordinates",
        f"largest |z| between the estimators' means, over K and coordinates: {max(scores):.2f}",
    ]
    _describe(report, sizes, ratios)
    report.data |= {"K": sizes, "copies": copies, "largest |z| between means": scores}
    return report


def _describe(report: Report, sizes: tuple[int, ...], ratios: dict) -> None:
    names = {which: ", ".join(which) for which in POWERS}
    points = {names[which]: [float(r[0]) for r in rows] for which, rows in ratios.items()}
    powers = {which: power(sizes, rows) for which, rows in ratios.items()}
    rows = [
        (str(size), *(f"{values[i]:.4f}" for values in points.values()))
        for i, size in enumerate(sizes)
    ]
    fits = [f"{p.value:+.3f} ({p.low:+.3f} .. {p.high:+.3f})" for p in powers.values()]
    rows.append((f"power of K from {FITTED_FROM}", *fits))
    report.tables.append(Table("signal to noise", ("K", *points), rows))
    labelled = {
        f"{name}: K^{powers[which].value:+.2f}": (sizes, points[name])
        for which, name in names.items()
    }
    report.panels.append(Lines("signal to noise of one gradient", "K", labelled))
    for which, expected in POWERS.items():
        found = powers[which]
        off = (found.value - expected, found.low - expected, found.high - expected)
        low = 0.0 if off[1] < 0 < off[2] else min(abs(off[1]), abs(off[2]))
        distance = Interval(abs(off[0]), low, max(abs(off[1]), abs(off[2])))
        what = f"{names[which]}: distance of the power of K from {expected:+.1f}"
        report.targets.append(Target(what, distance, WITHIN))
    report.data |= {
        "signal to noise": points,
        "power of K": {names[which]: vars(p) for which, p in powers.items()},
    }


class Problem:
    """The model, its data and the values of all parameters."""

    def __init__(self) -> None:
        self.weight = torch.randn(3, 2, dtype=torch.float64)
        self.x = 1.5 * torch.randn(3, dtype=torch.float64)
        b = torch.tensor([0.3, -0.3], dtype=torch.float64)
        precision = torch.eye(2, dtype=torch.float64) + self.weight.T @ self.weight / NOISE**2
        mean = torch.linalg.solve(precision, b + self.weight.T @ self.x / NOISE**2)
        scale = precision.diagonal().rsqrt()
        self.start = {
            "model's b": b,
            "guide's mean": mean + OFF * scale,
            "guide's log scale": (WIDER * scale).log(),
        }

    def gradients(self, make: Callable[..., dsvi.Objective], size: int, copies: int) -> Gradients:
        """Independent estimates of the bound's gradient, by parameter, ``[copies, 2]``."""
        block = min(copies, max(1, AT_ONCE // size))
        objective = make(size, vectorize_particles=True, max_plate_nesting=1)
        parts = [self._step(objective, block) for _ in range(math.ceil(copies / block))]
        return {name: torch.cat([part[name] for part in parts])[:copies] for name in self.start}

    def _step(self, objective: dsvi.Objective, copies: int) -> Gradients:
        own = {n: v.expand(copies, 2).clone().requires_grad_() for n, v in self.start.items()}
        one = torch.ones((), dtype=torch.float64)

        def model():
            with pyro.plate("copies", copies):
                z = pyro.sample("z", dist.Normal(own["model's b"], one).to_event(1))
                loc = z @ self.weight.T
                pyro.sample("x", dist.Normal(loc, NOISE * one).to_event(1), obs=self.x)

        def guide():
            loc, scale = own["guide's mean"], own["guide's log scale"].exp()
            with pyro.plate("copies", copies):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

        objective.loss_and_grads(model, guide)
        return {n: torch.zeros_like(p) if p.grad is None else -p.grad for n, p in own.items()}


def moments(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all, and then of each bootstrap resample, ``[1 + R, D]``."""
    n = len(estimates)
    drawn = torch.distributions.Multinomial(n, torch.ones(n)).sample((RESAMPLES,))
    share = torch.cat([torch.ones(1, n), drawn]).to(estimates) / n
    centre = estimates.mean(0)
    mean, square = share @ (estimates - centre), share @ (estimates - centre).square()
    return centre + mean, (square - mean.square()).sqrt()


def score(one: Tensor, other: Tensor) -> float:
    """Largest absolute z-score between two means."""
    error = ((one.var(0) + other.var(0)) / len(one)).sqrt()
    return float(((one.mean(0) - other.mean(0)) / error).abs().max())


def power(sizes: tuple[int, ...], ratios: list[Tensor]) -> Interval:
    """Slope of the line through the logs by least squares, from :data:`FITTED_FROM` on."""
    kept = [(size, ratio) for size, ratio in zip(sizes, ratios, strict=True) if size >= FITTED_FROM]
    across = torch.tensor([size for size, _ in kept], dtype=torch.float64).log()
    across = across - across.mean()
    up = torch.stack([ratio for _, ratio in kept]).log()
    slopes = across @ up / across.square().sum()
    low, high = slopes[1:].quantile(torch.tensor([0.025, 0.975], dtype=slopes.dtype)).tolist()
    return Interval(float(slopes[0]), low, high)
