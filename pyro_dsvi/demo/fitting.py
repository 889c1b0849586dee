"""One fit: the same model, guide, schedule and seed under a given estimator, and its measures."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor
from tqdm import tqdm

import pyro_dsvi as dsvi
from pyro_dsvi.demo.problem import Data, guide, model

KEPT = 0.5


@dataclass(frozen=True)
class Settings:
    """What all fits have in common.

    Attributes:
        steps: gradient steps.
        particles: draws of the weights in a step.
        seed: seed of every fit.
        batch_size: points in a minibatch.
        learning_rate: of Adam, at the first step.
        decay: the learning rate's share that is left at the last step.
        checks: how often the bound on all training data is taken on the way.
        check_particles: draws for each of these.
        final_particles: draws for the final bound, and of the posterior.
        repeats: steps over which a gradient's variance is measured.
        warm_up: steps before these, for baselines that learn from past steps.
    """

    steps: int = 2000
    particles: int = 8
    seed: int = 0
    batch_size: int = 91
    learning_rate: float = 0.02
    decay: float = 0.05
    checks: int = 50
    check_particles: int = 32
    final_particles: int = 1000
    repeats: int = 200
    warm_up: int = 50


def estimators(particles: int) -> dict[str, Callable[[], dsvi.Objective]]:
    """The four contestants, each built anew when called."""
    return {
        "score function": lambda: dsvi.ScoreFunctionELBO(num_particles=particles),
        "running mean": lambda: dsvi.ScoreFunctionELBO(
            dsvi.MovingAverage(), num_particles=particles
        ),
        "leave-one-out": lambda: dsvi.ScoreFunctionELBO(
            dsvi.LeaveOneOut(), num_particles=particles
        ),
        "pathwise": lambda: dsvi.PathwiseELBO(num_particles=particles),
    }


@dataclass(frozen=True)
class Quality:
    """How well held-out labels are predicted.

    Attributes:
        wrong: number of wrong labels.
        points: number of labels.
        log_score: mean log probability of the right label, in nats.
    """

    wrong: int
    points: int
    log_score: float


@dataclass(frozen=True)
class Fit:
    """The result of one fit.

    Attributes:
        name: the estimator.
        steps: steps at which the bound was taken.
        bounds: the bound on all training data at these, in nats.
        bound: the same at the end, from many particles.
        variance_start: total variance of the gradient before the first step.
        variance_end: the same after the last.
        loc: means of the weights.
        scale: their standard deviations.
        draws: draws of the posterior, shape ``[S, weights]``.
        quality: on the held-out points.
        seconds: time of the steps after the first.
    """

    name: str
    steps: list[int]
    bounds: list[float]
    bound: float
    variance_start: float
    variance_end: float
    loc: Tensor
    scale: Tensor
    draws: Tensor
    quality: Quality
    seconds: float

    @property
    def relevance(self) -> Tensor:
        r"""How well determined each weight is, :math:`1 - s_n^2 / \sigma_n^2`, from 0 to 1."""
        return self.loc**2 / (self.loc**2 + self.scale**2)

    @property
    def kept(self) -> Tensor:
        """Whether each weight is kept: its mean is further than ``scale`` away from zero."""
        return self.relevance > KEPT


def fit(name: str, build: Callable[[], dsvi.Objective], data: Data, settings: Settings) -> Fit:
    """Fit the machine with one estimator, in a param store and random state of its own."""
    basis, labels = data.basis(data.train), data.train_labels
    with pyro.get_param_store().scope(), _seeded(settings.seed):
        guide(basis, labels)  # makes the parameters
        variance_start = gradient_variance(build(), basis, labels, settings)
        objective = build()
        optimizer = ClippedAdam(
            {
                "lr": settings.learning_rate,
                "lrd": settings.decay ** (1 / settings.steps),
                "clip_norm": math.inf,
            }
        )
        svi = SVI(model, guide, optimizer, objective)
        every = max(1, settings.steps // settings.checks)
        check = dsvi.PathwiseELBO(num_particles=settings.check_particles)
        steps, bounds, seconds = [], [], 0.0
        with tqdm(total=settings.steps, desc=f"{name:>14}", unit="step") as bar:
            for step in range(settings.steps + 1):
                if step % every == 0:
                    steps.append(step)
                    bounds.append(full_bound(check, basis, labels))
                    bar.set_postfix_str(f"bound {bounds[-1]:.1f} nats", refresh=False)
                if step < settings.steps:
                    before = time.perf_counter()
                    svi.step(basis, labels, settings.batch_size)
                    if step > 0:  # the process's first step of all loads half of torch
                        seconds += time.perf_counter() - before
                    bar.update()
        variance_end = gradient_variance(objective, basis, labels, settings)
        repeats = math.ceil(settings.final_particles / settings.check_particles)
        final = [full_bound(check, basis, labels, seed) for seed in range(repeats)]
        loc, scale = (pyro.param(name).detach().clone() for name in ("loc", "scale"))
        draws = loc + scale * torch.randn(settings.final_particles, len(loc))
    probabilities = torch.sigmoid(draws @ data.basis(data.test).T).mean(0)
    return Fit(
        name=name,
        steps=steps,
        bounds=bounds,
        bound=sum(final) / len(final),
        variance_start=variance_start,
        variance_end=variance_end,
        loc=loc,
        scale=scale,
        draws=draws,
        quality=quality(probabilities, data.test_labels),
        seconds=seconds,
    )


def full_bound(check: dsvi.Objective, basis: Tensor, labels: Tensor, seed: int = 0) -> float:
    """The bound on all training data in nats; the same seed means the same noise."""
    with _seeded(seed):
        return -check.loss(model, guide, basis, labels)


def gradient_variance(
    objective: dsvi.Objective, basis: Tensor, labels: Tensor, settings: Settings
) -> float:
    """Total variance of a step's gradient where the parameters stand, over random minibatches.

    The sum, over the guide's unconstrained parameters, of the variance of the gradient's entry.
    """
    parameters = [parameter for _, parameter in pyro.get_param_store().named_parameters()]
    gradients = []
    for _ in range(settings.warm_up + settings.repeats):
        for parameter in parameters:
            parameter.grad = None
        objective.loss_and_grads(model, guide, basis, labels, settings.batch_size)
        gradients.append(torch.cat([p.grad for p in parameters if p.grad is not None]))
    for parameter in parameters:
        parameter.grad = None
    return torch.stack(gradients[settings.warm_up :]).var(0).sum().item()


def quality(probabilities: Tensor, labels: Tensor) -> Quality:
    """Judge predictions.

    Args:
        probabilities: of label 1; for a posterior, averaged over its draws before any logarithm.
        labels: 0 or 1.
    """
    wrong = int(((probabilities > 0.5) != (labels > 0.5)).sum())
    right = torch.where(labels > 0.5, probabilities, 1 - probabilities)
    return Quality(wrong, len(labels), right.log().mean().item())


def logistic_regression(data: Data) -> tuple[Quality, float]:
    """scikit-learn's classifier on the standardised features, and the seconds it took."""
    from sklearn.linear_model import LogisticRegression

    before = time.perf_counter()
    classifier = LogisticRegression(max_iter=1000).fit(
        data.train.numpy(), data.train_labels.numpy()
    )
    seconds = time.perf_counter() - before
    probabilities = torch.as_tensor(classifier.predict_proba(data.test.numpy())[:, 1])
    return quality(probabilities, data.test_labels), seconds


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A random state of its own, and the old one put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
