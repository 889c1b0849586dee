r"""How the variance of a Bayesian network's gradient falls with the minibatch, by its noise.

With the share :math:`\frac N M L_m` of the m-th of M independent rows out of N data

.. math:: \operatorname{Var} \frac N M \sum_m L_m = \frac{N^2}{M} \operatorname{Var} L_m +
    N^2 \frac{M - 1}{M} \operatorname{Cov}(L_i, L_j)

One draw of the weights for all rows leaves a covariance, under which the variance cannot fall.
Local reparameterisation leaves none, and has less variance for a single row too: of the weights'
noise it keeps what the outputs see.  Flipout takes the sign out of the common draw and leaves its
size.

scikit-learn's digits, a network 64-50-10 at its random start, weights and biases N(μ, .3²).

References: Kingma, Salimans, Welling (2015); Wen et al. (2018).
"""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval, pinned
from benchmarks.programs.noisy_network import AROUND, FLIPOUT, LOCAL, PLAIN, NoisyNetwork
from benchmarks.report import Lines, Report, Settings, Table, Target
from benchmarks.spread import Spread, interval_of

NAME = "noise"
SIGMA = 0.3
WAYS = (PLAIN, FLIPOUT, LOCAL)
MEANS, SCALES = PARAMETERS = ("means", "scales")
SIZES = tuple(2**k for k in range(11))
# What one draw of the weights has at least as a multiple of local reparameterisation, by M.
AT_LEAST = {128: {MEANS: 15.0, SCALES: 100.0}, 1: {SCALES: 5.0}}
# Whose covariance is most of the variance of the largest minibatches.
LEVELLING = ((PLAIN, MEANS), (PLAIN, SCALES), (FLIPOUT, SCALES))

Found = dict[str, dict[int, dict[str, Spread]]]


class Digits:
    """The network, and the leaves of its guide.

    Args:
        seed: of the network.
    """

    def __init__(self, seed: int = 0) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pyro.set_rng_seed(seed)
        net = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
        start = {name: leaf.detach() for name, leaf in net.named_parameters()}
        self.means = {name: mean.clone().requires_grad_() for name, mean in start.items()}
        self.scales = {
            n: torch.full_like(mean, SIGMA).requires_grad_() for n, mean in start.items()
        }
        self.problem = NoisyNetwork(
            dsvi.nn.bayesianize(net, dist.Normal(0.0, 1.0)),
            {name: partial(self._law, name) for name in start},
            torch.as_tensor(images / 16, dtype=torch.float32),
            torch.as_tensor(labels),
        )

    def _law(self, name: str) -> dist.Normal:
        return dist.Normal(self.means[name], self.scales[name])

    def spread(self, way: str, size: int, repeats: int, seed: int) -> dict[str, Spread]:
        """Variance of the gradient in the means and in the scales, minibatches drawn anew.

        Args:
            way: how the noise reaches the outputs.
            size: M, rows in a minibatch.
            repeats: gradients.
            seed: of the rows, the noise and the bootstrap.
        """
        pyro.set_rng_seed(seed)
        groups = list(self.means.values()), list(self.scales.values())
        draws = [
            self.problem.gradient(AROUND[way], self.problem.rows(size), groups)
            for _ in range(repeats)
        ]
        return {
            name: Spread.of(torch.stack(rows), seed)
            for name, rows in zip(PARAMETERS, zip(*draws, strict=True), strict=True)
        }


def run(settings: Settings) -> Report:
    """Measure all, and part it into what falls with M and what does not."""
    sizes = (1, 128) if settings.quick else SIZES
    report = Report(NAME, "a gradient's variance by the noise's way and the minibatch's size")
    report.notes.append(
        f"digits, 64-50-10, all scales {SIGMA}, {'10' if settings.quick else '200'} gradients for "
        f"each number ({'20' if settings.quick else '1000'} where M = 1) at seed {settings.seed}, "
        "rows drawn with replacement; variance summed over parameters, in nats² per squared unit; "
        "95 % bootstrap intervals"
    )
    with pinned(settings.threads):
        digits = Digits(settings.seed)
        found: Found = {}
        for way in WAYS:
            found[way] = {}
            for i, size in enumerate(sizes):
                repeats = (20, 10) if settings.quick else (1000, 200)
                number = repeats[0] if size == 1 else repeats[1]
                seed = 1 + settings.seed + 100 * i + 10_000 * WAYS.index(way)
                found[way][size] = digits.spread(way, size, number, seed)
            print(f"{way}: measured", flush=True)
    for parameter in PARAMETERS:
        _tabulate(report, found, parameter)
        _decompose(report, found, parameter)
    _judge(report, found)
    return report


def parted(by_size: dict[int, Spread]) -> tuple[Spread, Spread]:
    r"""N² Var L_m and N² Cov(L_i, L_j), by least squares over sizes of minibatches.

    Each size counts by its own error: :math:`\min_{A, B} \sum_M (V_M - A / M - B (1 - 1/M))^2 /
    s_M^2`.

    Args:
        by_size: the variance by M.
    """
    sizes = np.array(list(by_size), dtype=float)
    weight = 1 / np.array([spread.resampled.std() for spread in by_size.values()])
    design = np.stack([1 / sizes, 1 - 1 / sizes], 1)
    solve = np.linalg.pinv(design * weight[:, None]) * weight
    # Sizes have seeds of their own, so their resamples are independent.
    points = solve @ np.array([spread.value for spread in by_size.values()])
    resampled = solve @ np.stack([spread.resampled for spread in by_size.values()])
    return Spread(float(points[0]), resampled[0]), Spread(float(points[1]), resampled[1])


def _tabulate(report: Report, found: Found, parameter: str) -> None:
    plain = found[PLAIN]
    rows = []
    for size in plain:
        spreads = [found[way][size][parameter] for way in WAYS]
        ratios = [_brief(spreads[0].over(other)) for other in spreads[1:]]
        rows.append([str(size), *(f"{spread.value:.3g}" for spread in spreads), *ratios])
    columns = ["M", *WAYS, f"{PLAIN} ÷ {FLIPOUT}", f"{PLAIN} ÷ {LOCAL}"]
    report.tables.append(Table(f"variance of the gradient in the {parameter}", columns, rows))
    report.data[f"variance, {parameter}"] = {
        way: {size: vars(by[parameter].interval) for size, by in found[way].items()} for way in WAYS
    }


def _decompose(report: Report, found: Found, parameter: str) -> None:
    rows, series = [], {}
    for way in WAYS:
        by_size = {size: by[parameter] for size, by in found[way].items()}
        alone, common = parted(by_size)
        share = interval_of(common.value / alone.value, common.resampled / alone.resampled)
        rows.append([way, *(_brief(part.interval) for part in (alone, common)), _brief(share)])
        sizes = list(by_size)
        series[way] = (sizes, [spread.value for spread in by_size.values()])
        fitted = [max(1e-9, alone.value / M + common.value * (1 - 1 / M)) for M in sizes]
        series[f"{way}: both terms"] = (sizes, fitted)
        report.data[f"terms, {parameter}, {way}"] = [vars(p.interval) for p in (alone, common)]
    columns = ["", "N² Var L_m", "N² Cov(L_i, L_j)", "Cov ÷ Var"]
    title = f"the two terms of the variance in the {parameter}, by least squares over M"
    report.tables.append(Table(title, columns, rows))
    fits = [f"{way}: both terms" for way in WAYS]
    what = f"variance of the gradient in the {parameter}, and N²/M Var + N² (M − 1)/M Cov"
    report.panels.append(Lines(what, "M", series, fits))


def _judge(report: Report, found: Found) -> None:
    for size, limits in AT_LEAST.items():
        for parameter, limit in limits.items():
            ratio = found[LOCAL][size][parameter].over(found[PLAIN][size][parameter], limit)
            what = f"variance of {LOCAL} × {limit:g} ÷ {PLAIN}, M = {size}, {parameter}"
            report.targets.append(Target(what, ratio, 1.0))
    last = max(found[LOCAL])
    for parameter in PARAMETERS:
        by_size = found[LOCAL]
        ratio = by_size[last][parameter].over(by_size[1][parameter], last)
        what = f"pure 1/M: {last} × variance at M = {last} ÷ at M = 1, {LOCAL}, {parameter}"
        report.targets.append(Target(what, ratio, 1.0, within_error=True))
    for way, parameter in LEVELLING:
        by_size = found[way]
        share = by_size[1][parameter].over(by_size[last][parameter], 1 / last)
        what = f"plateau: share of N²/M Var in the variance at M = {last}, {way}, {parameter}"
        report.targets.append(Target(what, share, 0.5))


def _brief(v: Interval) -> str:
    return f"{v.value:.3g} ({v.low:.3g} .. {v.high:.3g})"
