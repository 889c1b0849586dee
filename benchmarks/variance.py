r"""The variance of every Gaussian gradient estimator on one Bayesian logistic regression.

The table of Mohamed et al. (2020) on scikit-learn's breast cancer data: N = 569, 31 coefficients
with the bias, standardised features, prior N(0, I), a mean-field Gaussian guide.  It is trained by
pathwise gradients on minibatches of 32 with 50 samples; at the start and at the end the gradient of
the full data's bound is estimated again and again by each estimator, from 50 samples each.

.. math:: V = \frac{1}{31} \sum_{d=1}^{31} 50 \operatorname{Var}\big[\hat g_d\big]

is the variance a sample, averaged over dimensions, for the means and for the log scales.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.credit import variances
from benchmarks.interleave import Interval, pinned
from benchmarks.report import Bars, Report, Settings, Table, Target

NAME = "variance"
SAMPLES = 50
MINIBATCH = 32
SCORE, PATHWISE, TAYLOR = "score function", "pathwise", "pathwise + Taylor"
STAGES = ("start", "trained")
PARAMETERS = ("mean", "log scale")


def estimators() -> dict[str, Callable[[], dsvi.estimators.Estimator]]:
    """The contenders by name."""
    room = dsvi.estimators
    return {
        SCORE: room.ScoreFunction,
        "score + leave-one-out": lambda: room.ScoreFunction(dsvi.LeaveOneOut()),
        "score + delta": room.Delta,
        "score + delta, fitted scale": lambda: room.OptimalScale(room.Delta()),
        "measure-valued, uncoupled": lambda: room.MeasureValued(coupled=False),
        "measure-valued, coupled": room.MeasureValued,
        PATHWISE: room.Pathwise,
        TAYLOR: room.Taylor,
        "pathwise + Taylor, no probe": lambda: room.Taylor(probes=0),
        "pathwise + Taylor, fitted scale": lambda: room.OptimalScale(room.Taylor()),
    }


class Regression(NamedTuple):
    """The programs, which take the minibatch's size or None, and the guide's parameters."""

    model: Callable[[int | None], None]
    guide: Callable[[int | None], None]
    loc: Tensor
    log_scale: Tensor

    def gradient(self, objective: dsvi.Objective, minibatch: int | None = None) -> Tensor:
        """One estimate of the loss's gradient, shape ``[2, 31]``."""
        self.loc.grad = self.log_scale.grad = None
        objective.loss_and_grads(self.model, self.guide, minibatch)
        assert self.loc.grad is not None  # as every estimator has it
        assert self.log_scale.grad is not None
        return torch.stack([self.loc.grad, self.log_scale.grad])


def regression() -> Regression:
    """Build it, at the prior."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    x = torch.as_tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
    x = torch.cat([x, torch.ones(len(x), 1)], -1)
    y = torch.as_tensor(labels, dtype=torch.float32)
    loc = torch.zeros(x.shape[1], requires_grad=True)
    log_scale = torch.zeros(x.shape[1], requires_grad=True)

    def model(minibatch: int | None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros_like(loc), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=minibatch) as rows:
            logits = (w @ x[rows].T).reshape(*w.shape[:-2], -1)  # a sample's axis for the plate's
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y[rows])

    def guide(minibatch: int | None) -> None:
        pyro.sample("w", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Regression(model, guide, loc, log_scale)


def run(settings: Settings) -> Report:
    """Measure at the prior, train, measure again; then time the steps in turn."""
    repeats, steps, rounds = (12, 20, 2) if settings.quick else (200, 6000, 30)
    report = Report(NAME, "a sample's gradient variance on a Bayesian logistic regression")
    report.notes += [
        f"breast cancer, 31 coefficients; {SAMPLES} samples a gradient, {repeats} gradients of the "
        f"full data's bound for each number; trained by pathwise gradients, {steps} steps of Adam "
        f"on minibatches of {MINIBATCH}; seed {settings.seed}",
        "variance a sample, averaged over the 31 dimensions, with a 95 % bootstrap interval; cost: "
        f"CPU time of a step on a minibatch ÷ that of the {SCORE}, medians of {rounds} rounds",
    ]
    pyro.set_rng_seed(settings.seed)
    problem = regression()
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    with pinned(settings.threads):
        found["start"] = _measure(problem, repeats, settings.seed)
        _train(problem, steps)
        found["trained"] = _measure(problem, repeats, settings.seed)
        cost = _cost(problem, rounds)
    _tabulate(report, found, cost)
    return report


def _objective(estimator: dsvi.estimators.Estimator) -> dsvi.Objective:
    return dsvi.Objective(
        dsvi.bounds.Evidence(),
        num_particles=SAMPLES,
        vectorize_particles=True,
        max_plate_nesting=1,
        estimators={"w": estimator},
    )


def _train(problem: Regression, steps: int) -> None:
    objective = _objective(dsvi.Pathwise())
    optimizer = torch.optim.Adam([problem.loc, problem.log_scale], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        problem.gradient(objective, MINIBATCH)
        optimizer.step()
        schedule.step()


def _measure(problem: Regression, repeats: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Variance a sample by estimator and parameter."""
    draws: dict[str, np.ndarray] = {}
    for name, make in estimators().items():
        objective = _objective(make())
        problem.gradient(objective)  # a coefficient that is fitted has seen one step
        rows = [problem.gradient(objective) for _ in range(repeats)]
        draws[name] = torch.stack(rows).double().numpy()
    found: dict[str, dict[str, Interval]] = {name: {} for name in draws}
    for i, parameter in enumerate(PARAMETERS):
        part = {name: g[:, i] for name, g in draws.items()}
        total, _ = variances(part, against=SCORE, seed=seed)
        for name, v in total.items():
            factor = SAMPLES / part[name].shape[1]
            found[name][parameter] = Interval(v.value * factor, v.low * factor, v.high * factor)
    return found


def _cost(problem: Regression, rounds: int) -> dict[str, float]:
    """CPU time of a step relative to the score function's, contenders in turn."""
    objectives = {name: _objective(make()) for name, make in estimators().items()}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(rounds + 1):
        for name, objective in objectives.items():
            start = time.process_time()
            problem.gradient(objective, MINIBATCH)
            seconds[name].append(time.process_time() - start)
    medians = {name: float(np.median(s[1:])) for name, s in seconds.items()}
    return {name: s / medians[SCORE] for name, s in medians.items()}


def _tabulate(
    report: Report, found: dict[str, dict[str, dict[str, Interval]]], cost: dict[str, float]
) -> None:
    columns = ["", *(f"{p}, {stage}" for stage in STAGES for p in PARAMETERS), "cost of a step"]
    rows = []
    for name in cost:
        cells = [_cell(found[stage][name][p]) for stage in STAGES for p in PARAMETERS]
        rows.append((name, *cells, f"{cost[name]:.2f}"))
    report.tables.append(Table("variance a sample, averaged over dimensions", columns, rows))
    for parameter in PARAMETERS:
        by_name = {name: found["trained"][name][parameter] for name in cost}
        path, taylor = by_name[PATHWISE], by_name[TAYLOR]
        what = f"variance of {TAYLOR} ÷ {PATHWISE}, trained, {parameter}"
        ratio = Interval(taylor.value / path.value, taylor.low / path.high, taylor.high / path.low)
        report.targets.append(Target(what, ratio, 1.0))
        title = f"log10 of the variance, trained, {parameter}"
        report.panels.append(Bars(title, list(by_name), list(map(_log10, by_name.values()))))
    report.data["variance a sample"] = {
        stage: {n: {p: vars(v) for p, v in by.items()} for n, by in found[stage].items()}
        for stage in STAGES
    }
    report.data["cost of a step"] = cost


def _cell(v: Interval) -> str:
    return f"{v.value:.3g} ({v.low:.3g} .. {v.high:.3g})"


def _log10(v: Interval) -> Interval:
    value, low, high = np.log10(np.maximum([v.value, v.low, v.high], 1e-12)).tolist()
    return Interval(value, low, high)
