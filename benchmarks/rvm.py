"""Relevance vector machines beside scikit-learn's classifiers and regressions, on five folds.

Every fold is standardised by its training part, and nothing is chosen with the test part: a machine
takes the lengthscale with the highest bound on its training data, or the training inputs' median
distance; scikit-learn's take what their own validation inside the training part says.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval, pinned
from benchmarks.report import Points, Report, Settings, Table, Target
from pyro_dsvi.models import (
    RBF,
    BernoulliLikelihood,
    FullRank,
    GaussianLikelihood,
    Likelihood,
    MeanField,
    RelevanceVectorMachine,
    median_distance,
)

NAME = "rvm"
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # lengthscale ÷ median distance
MACHINE = "RVM, independent weights, lengthscale by the bound"
JOINT = "RVM, joint weights, median lengthscale"
STOCHASTIC = "RVM, independent weights, doubly stochastic"
MINIBATCH = 100


@dataclass(frozen=True)
class Fold:
    """A training part and a test part, standardised by the former."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Outcome:
    """What came of one fold: log score in nats a datum, error, and centres (or vectors) kept."""

    error: float
    log_score: float
    kept: float = float("nan")


Contender = Callable[[Fold], Outcome]


def run(settings: Settings) -> Report:
    """Fit every contender on every fold."""
    folds, steps = (2, 20) if settings.quick else (5, 3000)
    factors = FACTORS[1:2] if settings.quick else FACTORS
    report = Report(NAME, "relevance vector machines on breast cancer and on diabetes")
    report.notes += [
        f"{folds} folds, each standardised by its training part; RBF features at all training "
        f"points; lengthscale ÷ median distance among {', '.join(map(str, factors))}, where it is "
        f"chosen; seed {settings.seed}",
        f"doubly stochastic: {steps} steps of Adam on minibatches of {MINIBATCH}, one number a "
        "datum drawn, at the median lengthscale, then pruned by the bound",
        "log loss and RMSE are means over folds; ± is the standard error over the folds",
    ]
    with pinned(settings.threads):
        pyro.set_rng_seed(settings.seed)
        _classify(report, list(_cancer(folds, settings.seed)), factors, steps)
        _regress(report, list(_diabetes(folds, settings.seed)), factors)
    return report


def _cancer(folds: int, seed: int) -> Iterator[Fold]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import StratifiedKFold

    x, y = load_breast_cancer(return_X_y=True)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
        yield _fold(x, y.astype(float), train, test)


def _diabetes(folds: int, seed: int) -> Iterator[Fold]:
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import KFold

    x, y = load_diabetes(return_X_y=True)
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(x):
        scaled = (y - y[train].mean()) / y[train].std()
        yield _fold(x, scaled, train, test)


def _fold(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> Fold:
    mean, deviation = x[train].mean(0), x[train].std(0)
    scaled = torch.as_tensor((x - mean) / deviation, dtype=torch.float64)
    outputs = torch.as_tensor(y, dtype=torch.float64)
    return Fold(scaled[train], outputs[train], scaled[test], outputs[test])


def by_bound(
    fold: Fold, likelihood: Callable[[], Likelihood], factors: tuple[float, ...]
) -> RelevanceVectorMachine:
    """The machine whose lengthscale has the highest bound on the training part."""
    fitted = []
    for factor in factors:
        kernel = RBF(factor * median_distance(fold.x))
        machine = RelevanceVectorMachine(fold.x, likelihood(), kernel=kernel, relevance=MeanField)
        fitted.append((machine.fit(fold.x, fold.y).bound, factor, machine))
    return max(fitted, key=lambda one: one[0])[2]


def _joint(fold: Fold, likelihood: Likelihood) -> RelevanceVectorMachine:
    machine = RelevanceVectorMachine(fold.x, likelihood, relevance=FullRank)
    machine.fit(fold.x, fold.y)
    return machine


def _stochastic(fold: Fold, steps: int) -> RelevanceVectorMachine:
    machine = RelevanceVectorMachine(fold.x)
    optimizer = torch.optim.Adam(machine.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    elbo = dsvi.PathwiseELBO()
    programs = machine.local_model, machine.local_guide
    for _ in range(steps):
        optimizer.zero_grad()
        elbo.loss_and_grads(*programs, fold.x, fold.y, minibatch=MINIBATCH)
        optimizer.step()
        schedule.step()
    machine.prune(fold.x, fold.y)
    return machine


def _judged(machine: RelevanceVectorMachine, fold: Fold) -> Outcome:
    law = machine.predictive(fold.x_test)
    log_score = float(law.log_prob(fold.y_test).mean())
    error = _error(law.mean, fold.y_test, isinstance(machine.likelihood, BernoulliLikelihood))
    return Outcome(error, log_score, len(machine.relevance_vectors))


def _error(mean: Tensor, y: Tensor, classes: bool) -> float:
    if classes:
        return float(((mean > 0.5) != (y > 0.5)).double().mean())
    return float(((mean - y) ** 2).mean().sqrt())


def _support_vectors(fold: Fold) -> Outcome:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    gamma = (0.5 / (np.array(FACTORS) * median_distance(fold.x)) ** 2).tolist()
    grid = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": gamma}
    best = GridSearchCV(SVC(), grid, cv=5).fit(fold.x.numpy(), fold.y.numpy()).best_estimator_
    calibrated = CalibratedClassifierCV(best, ensemble=False, cv=5)
    calibrated.fit(fold.x.numpy(), fold.y.numpy())
    return _probable(calibrated, fold, len(best.support_))


def _logistic(fold: Fold) -> Outcome:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    grid = {"C": [0.01, 0.1, 1.0, 10.0]}
    search = GridSearchCV(LogisticRegression(max_iter=5000), grid, cv=5, scoring="neg_log_loss")
    return _probable(search.fit(fold.x.numpy(), fold.y.numpy()), fold)


def _probable(classifier, fold: Fold, kept: float = float("nan")) -> Outcome:
    p = torch.as_tensor(classifier.predict_proba(fold.x_test.numpy()))
    found = dsvi.diagnostics.calibration(p, fold.y_test)
    return Outcome(found.error, -found.nll, kept)


def _linear(make: Callable[[], object], features: Callable[[Fold, Tensor], Tensor]) -> Contender:
    def outcome(fold: Fold) -> Outcome:
        model = make()
        model.fit(features(fold, fold.x).numpy(), fold.y.numpy())
        mean, deviation = model.predict(features(fold, fold.x_test).numpy(), return_std=True)
        law = torch.distributions.Normal(torch.as_tensor(mean), torch.as_tensor(deviation))
        kept = float("nan")
        if hasattr(model, "threshold_lambda"):  # ARD: the rest are zero by its own rule
            kept = float((model.lambda_ < model.threshold_lambda).sum())
        error = _error(law.mean, fold.y_test, classes=False)
        return Outcome(error, float(law.log_prob(fold.y_test).mean()), kept)

    return outcome


def _classify(report: Report, folds: list[Fold], factors: tuple[float, ...], steps: int) -> None:
    contenders: dict[str, Contender] = {
        MACHINE: lambda f: _judged(by_bound(f, BernoulliLikelihood, factors), f),
        JOINT: lambda f: _judged(_joint(f, BernoulliLikelihood()), f),
        STOCHASTIC: lambda f: _judged(_stochastic(f, steps), f),
        "SVC, RBF, calibrated": _support_vectors,
        "LogisticRegression": _logistic,
    }
    found = _tabulate(report, "breast cancer", ("error", "log loss", "vectors"), contenders, folds)
    outcomes = found[MACHINE]
    for what, values, most in (
        ("error", [o.error for o in outcomes], 0.036),
        ("log loss", [-o.log_score for o in outcomes], 0.10),
        ("relevance vectors", [o.kept for o in outcomes], 39.0),
    ):
        report.targets.append(Target(f"{MACHINE}: {what}", _interval(values), most))
    report.panels.append(_picture(folds[0], factors))


def _regress(report: Report, folds: list[Fold], factors: tuple[float, ...]) -> None:
    from sklearn.linear_model import ARDRegression, BayesianRidge

    def inputs(fold: Fold, x: Tensor) -> Tensor:
        return x

    def bumps(fold: Fold, x: Tensor) -> Tensor:
        return RBF(median_distance(fold.x))(x, fold.x)

    contenders: dict[str, Contender] = {
        MACHINE: lambda f: _judged(by_bound(f, GaussianLikelihood, factors), f),
        JOINT: lambda f: _judged(_joint(f, GaussianLikelihood()), f),
        "ARDRegression, same features, median lengthscale": _linear(ARDRegression, bumps),
        "ARDRegression on the inputs": _linear(ARDRegression, inputs),
        "BayesianRidge on the inputs": _linear(BayesianRidge, inputs),
    }
    columns = ("RMSE ÷ deviation", "negative log score", "kept")
    _tabulate(report, "diabetes", columns, contenders, folds)


def _tabulate(
    report: Report,
    title: str,
    columns: tuple[str, str, str],
    contenders: dict[str, Contender],
    folds: list[Fold],
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    rows = []
    for name, contender in contenders.items():
        start = time.process_time()
        found[name] = [contender(fold) for fold in folds]
        seconds = (time.process_time() - start) / len(folds)
        error, score, kept = (
            [getattr(o, what) for o in found[name]] for what in ("error", "log_score", "kept")
        )
        vectors = "-" if np.isnan(kept).any() else f"{np.mean(kept):.1f}"
        cells = _cell(error), _cell([-s for s in score]), vectors, f"{seconds:.2f}"
        rows.append((name, *cells))
    sizes = f"{len(folds[0].x) + len(folds[0].x_test)} data, {len(folds)} folds"
    report.tables.append(Table(f"{title}, {sizes}", ("", *columns, "CPU s a fold"), rows))
    report.data[title] = {name: [vars(o) for o in outcomes] for name, outcomes in found.items()}
    return found


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.4f}"


def _interval(values: list[float]) -> Interval:
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - 1.96 * error, mean + 1.96 * error)


def _picture(fold: Fold, factors: tuple[float, ...]) -> Points:
    """The first fold's training points in their two principal directions."""
    machine = by_bound(fold, BernoulliLikelihood, factors)
    _, _, directions = torch.linalg.svd(fold.x, full_matrices=False)
    plane = fold.x @ directions[:2].T
    kept = plane[machine.relevance_indices]
    groups = {"malignant": plane[fold.y < 0.5], "benign": plane[fold.y > 0.5]}
    return Points(
        f"breast cancer, first fold: {len(kept)} relevance vectors of {len(plane)} points",
        ("first principal component", "second principal component"),
        {name: (points[:, 0].tolist(), points[:, 1].tolist()) for name, points in groups.items()},
        (kept[:, 0].tolist(), kept[:, 1].tolist()),
    )
