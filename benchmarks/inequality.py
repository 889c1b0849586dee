r"""L_m <= L_K <= log p(x) for m <= K, on a linear-Gaussian model whose evidence is known.

.. math:: z \sim N(0, I), \quad x \mid z \sim N(W z, \sigma^2 I), \quad
    \log p(x) = \log N(x; 0, W W^\top + \sigma^2 I)

The guide has the right mean, but no correlations and too wide scales.  What is averaged over many
independent draws is, for the mean weight w of K particles,

.. math:: \frac{w}{p(x)} - 1 - \log \frac{w}{p(x)} \ge 0, \qquad
    \mathbb{E}\Big[\frac{w}{p(x)} - 1\Big] = 0,

whose expectation is the gap log p(x) - L_K, without most of the noise of log w alone.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval
from benchmarks.report import Lines, Report, Settings, Table, Target

NAME = "inequality"
NOISE, WIDER, DATA = 0.5, 1.3, 8


def run(settings: Settings) -> Report:
    """Estimate the bound for each number of particles."""
    report = Report(NAME, "IWAE's bound against K, linear-Gaussian model with known log p(x)")
    torch.manual_seed(settings.seed)
    weight = torch.randn(3, 2, dtype=torch.float64)
    x = torch.randn(DATA, 3, dtype=torch.float64) * 1.5
    truth = float(log_evidence(weight, x).sum())
    sizes = (1, 2, 4) if settings.quick else tuple(2**i for i in range(11))
    repeats, steps = (10, 3) if settings.quick else (100, 40)
    gaps, errors = [], []
    for size in sizes:
        found = gap(weight, x, size, repeats, steps)
        gaps.append(float(found.mean()))
        errors.append(float(found.std()) / math.sqrt(len(found)))
    means = [truth - each for each in gaps]
    rows = [
        (str(K), f"{mean:.5f}", f"{error:.5f}", f"{each:.5f}")
        for K, mean, error, each in zip(sizes, means, errors, gaps, strict=True)
    ]
    rows.append(("log p(x)", f"{truth:.5f}", "", "0"))
    title = f"{DATA} data, {repeats * steps} independent estimates for each K"
    report.tables.append(Table(title, ("K", "bound, nats", "standard error", "gap"), rows))
    report.panels.append(Lines("log p(x) − L_K, nats", "K", {"IWAE": (sizes, gaps)}))
    for i in range(1, len(sizes)):
        ratio = gaps[i] / gaps[i - 1]
        error = 2 * abs(ratio) * math.hypot(errors[i] / gaps[i], errors[i - 1] / gaps[i - 1])
        what = f"gap at K={sizes[i]} ÷ gap at K={sizes[i - 1]}"
        report.targets.append(Target(what, Interval(ratio, ratio - error, ratio + error), 1.0))
    report.data |= {"log p(x)": truth, "K": sizes, "bound": means, "standard error": errors}
    return report


def log_evidence(weight: Tensor, x: Tensor) -> Tensor:
    """Log evidence of each datum, in closed form."""
    covariance = weight @ weight.T + NOISE**2 * torch.eye(3, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x)


@torch.no_grad()
def gap(weight: Tensor, x: Tensor, size: int, repeats: int, steps: int) -> Tensor:
    """Estimates of the gap with K particles, summed over the data; each from draws of its own."""
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / NOISE**2
    mean = torch.linalg.solve(precision, weight.T @ x.T / NOISE**2).T
    scale = WIDER * precision.diagonal().rsqrt()
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones((), dtype=torch.float64)

    def plates():
        return pyro.plate("repeats", repeats, dim=-2), pyro.plate("data", DATA, dim=-1)

    def model():
        outer, inner = plates()
        with outer, inner:
            z = pyro.sample("z", dist.Normal(zero, one).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, NOISE * one).to_event(1), obs=x)

    def guide():
        outer, inner = plates()
        with outer, inner:
            pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    objective = dsvi.IWAE(size, chunk=64, vectorize_particles=True, max_plate_nesting=2)
    found = []
    for _ in range(steps):
        chunks = objective.weigh(model, guide, (), {})
        log_w = torch.cat([bundles[0].log_w for _, bundles, _, _ in chunks])
        log_ratio = log_w.logsumexp(0) - math.log(size) - log_evidence(weight, x)
        found.append((log_ratio.expm1() - log_ratio).sum(-1))
    return torch.cat(found)
