"""What credit by influence costs on a chain of Bernoulli latents, and what it saves in variance.

Three losses are compared: Pyro's ``Trace_ELBO``, in which every draw answers for everything, its
``TraceGraph_ELBO``, in which it answers for what it reaches, and our ``ScoreFunctionELBO`` with its
default credit.  The variances are compared at the same parameters and on the same draws: the draw
with the same seed is the same for all three, so that the ratio is known far better than each part.
"""

from functools import partial

import numpy as np
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

import pyro_dsvi as dsvi
from benchmarks.compare import Losses, how, time_losses
from benchmarks.contenders.in_pyro import Stepwise
from benchmarks.interleave import Interval, pinned
from benchmarks.programs.chain import chain
from benchmarks.report import Bars, Report, Settings, Table, Target, shown

NAME = "credit"
OURS = "dsvi.ScoreFunctionELBO"
LOSSES: Losses = {
    "Trace_ELBO": Trace_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
    OURS: dsvi.ScoreFunctionELBO,
}
COST_AT_MOST = 1.3
VARIANCE_AT_MOST = 1.0
ROUNDING = 16 * float(np.finfo(np.float32).eps)  # gradients are float32


def run(settings: Settings) -> Report:
    """Time the steps, then measure the gradients' variance."""
    rounds = 3 if settings.quick else 60
    draws = {5: 20} if settings.quick else {5: 2000, 50: 100}
    report = Report(NAME, "a step on a chain of Bernoulli latents, and its gradient's variance")
    report.notes.append(how(settings, rounds))
    with pinned(settings.threads):
        for sites in draws:
            for observed in ("each", "end"):
                words = f"chain of {sites}, " + _WORDS[observed]
                make = partial(chain, sites, observed=observed)
                for validation in (True, False):
                    found = time_losses(
                        report,
                        settings,
                        words,
                        make,
                        LOSSES,
                        validation=validation,
                        rounds=rounds,
                        against="Trace_ELBO",
                        every={"TraceGraph_ELBO": 4},
                    )
                    switch = "on" if validation else "off"
                    what = f"CPU time a step ÷ Trace_ELBO: {words}, validation {switch}"
                    report.targets.append(Target(what, found[OURS][1], COST_AT_MOST))
                    ratios = [ratio for _, ratio in found.values()]
                    report.panels.append(Bars(what, list(found), ratios, COST_AT_MOST))
                _compare_variances(report, settings, words, make, draws[sites])
    return report


_WORDS = {"each": "an observation at each site", "end": "an observation at the end"}


def _compare_variances(report: Report, settings: Settings, words: str, make, draws: int) -> None:
    gradients = {}
    for name, loss in LOSSES.items():
        trainee = Stepwise(make, loss(), validation=False, seed=settings.seed)
        seeds = range(settings.seed + 1, settings.seed + 1 + draws)
        gradients[name] = trainee.gradients(seeds).double().numpy()
    total, ratio = variances(gradients, against="TraceGraph_ELBO", seed=settings.seed)
    rows = [
        (name, f"{v.value:.4g} ({v.low:.4g} .. {v.high:.4g})", shown(ratio[name]))
        for name, v in total.items()
    ]
    title = f"{words}: gradient's variance, summed over parameters, {draws} draws common to all"
    report.tables.append(
        Table(title, ("", "total variance (95 % interval)", "÷ TraceGraph_ELBO"), rows)
    )
    found = ratio[OURS]
    what = f"gradient's variance ÷ TraceGraph_ELBO: {words}"
    report.targets.append(
        Target(what, found, VARIANCE_AT_MOST, within_error=True, arithmetic=ROUNDING)
    )
    report.panels.append(Bars(what, list(ratio), list(ratio.values()), VARIANCE_AT_MOST))
    gap = abs(gradients[OURS] - gradients["TraceGraph_ELBO"]).max()
    report.notes.append(
        f"{words}: on the same draw our gradient and TraceGraph_ELBO's differ by at most {gap:.2g}"
    )
    report.data[f"{words}, variance"] = {
        "draws": draws,
        "total": {name: vars(v) for name, v in total.items()},
        "ratio_to_TraceGraph_ELBO": {name: vars(v) for name, v in ratio.items()},
        "largest_difference_from_TraceGraph_ELBO_on_the_same_draw": float(gap),
    }


def variances(
    gradients: dict[str, np.ndarray], *, against: str, seed: int, resamples: int = 2000
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Total variance of each gradient, and its ratio to one of them.

    Args:
        gradients: by name, a row for each draw; equal rows belong to equal draws.
        against: the one to divide by.
        seed: of the bootstrap, which resamples the draws, the same for all.
        resamples: of the bootstrap.
    """
    count = len(gradients[against])
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    point = {name: g.var(0, ddof=1).sum() for name, g in gradients.items()}
    again = {name: _resampled(g, weights) for name, g in gradients.items()}
    total = {name: _interval(point[name], again[name]) for name in gradients}
    ratio = {
        name: _interval(point[name] / point[against], again[name] / again[against])
        for name in gradients
    }
    return total, ratio


def _resampled(gradient: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Total variance in each resample, given how often each draw is in it.

    A resample holds draws twice, which costs it another 1 / count of its variance.
    """
    count = len(gradient)
    centred = gradient - gradient.mean(0)
    square = weights @ (centred**2).sum(1) / count
    mean = weights @ centred / count
    return (square - (mean**2).sum(1)) * (count / (count - 1)) ** 2


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
