r"""An autoencoder of the digits under each bound, judged by held-out log p(x).

Every objective gets the same number of particles a datum and step, the same steps, first
parameters, minibatches and noise; they differ in what model and guide follow.  What is compared is
no bound, each of which would favour itself, but

.. math:: \frac1D \sum_i \log p(x_i) \quad \text{on held-out data},

estimated for every datum by importance sampling.  Data differ far more among themselves than
objectives do, so that the statistic is the paired difference from IWAE, datum by datum, on the
same data and from the same seeds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval, pinned
from benchmarks.paired import Difference, difference, verdict
from benchmarks.programs.digits_vae import THRESHOLD, Autoencoder, Digits, digits
from benchmarks.report import Bars, Lines, Report, Settings, Table, Target
from pyro_dsvi.diagnostics import LogEvidence

NAME = "vae"
PARTICLES, GROUPS, BETA = 16, (4, 4), 0.5
MINIBATCH, RATE = 100, 3e-3
SEEDS = 2
BASE = "IWAE"
SIDE_BY_SIDE = {"vectorize_particles": True, "max_plate_nesting": 1}
NOISE_AT_MOST = 0.1


@dataclass(frozen=True)
class Effort:
    """How much is done: steps, draws to judge by, and when to look on the way."""

    steps: int
    draws: int
    glances: Sequence[int]
    chunk: int = 100


@dataclass(frozen=True, eq=False)
class Found:
    """What came of one objective from one seed; arrays have an element for each held-out datum.

    Attributes:
        log_p: log p(x) in nats.
        error: its Monte Carlo standard error.
        share: effective sample size of the guide's draws, as a share of them.
        elbo: evidence lower bound in nats.
        bound: the objective's own bound on the training data, nats a datum.
        course: held-out log p(x), nats a datum, at each glance.
        seconds: CPU time of the steps.
    """

    log_p: np.ndarray
    error: np.ndarray
    share: np.ndarray
    elbo: np.ndarray
    bound: float
    course: Sequence[float]
    seconds: float


def objectives() -> dict[str, Callable[..., dsvi.Objective]]:
    """The contenders, all with the same number of particles."""
    tvo = dsvi.bounds.TVO()
    covariance = dsvi.bounds.Apart(tvo, dsvi.bounds.Covariance(tvo))
    return {
        "ELBO": partial(dsvi.PathwiseELBO, num_particles=PARTICLES),
        BASE: partial(dsvi.IWAE, PARTICLES),
        "MIWAE": partial(dsvi.MIWAE, *GROUPS),
        "PIWAE": partial(dsvi.PIWAE, *GROUPS),
        "CIWAE": partial(dsvi.CIWAE, BETA, PARTICLES),
        "DReG": partial(dsvi.DReG, PARTICLES),
        "TVO": partial(dsvi.TVO, PARTICLES),
        "TVO, covariance": partial(dsvi.Objective, covariance, num_particles=PARTICLES),
    }


def run(settings: Settings) -> Report:
    """Train by each objective from each seed, and judge."""
    effort = Effort(1000, 2000, (50, 100, 200, 400, 700, 1000))
    if settings.quick:
        effort = Effort(6, 20, (3, 6), chunk=10)
    seeds = [settings.seed + i for i in range(settings.seeds or (1 if settings.quick else SEEDS))]
    data = digits()
    runs: dict[str, list[Found]] = {name: [] for name in objectives()}
    with pinned(settings.threads), pyro.validation_enabled(False):
        for seed in seeds:
            for name, make in objectives().items():
                with pyro.get_param_store().scope():
                    runs[name].append(train(make, data, seed, effort))
    report = Report(NAME, "an autoencoder of the digits by each bound, held-out log p(x)")
    report.notes += _notes(data, effort, seeds)
    tabulate(report, runs, effort)
    report.data |= {
        "seeds": seeds,
        "runs": {name: [_record(found) for found in each] for name, each in runs.items()},
    }
    return report


def train(make: Callable[..., dsvi.Objective], data: Digits, seed: int, effort: Effort) -> Found:
    """Train by one objective from one seed, and judge."""
    net = Autoencoder(seed)
    objective = make(**SIDE_BY_SIDE)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)
    pyro.set_rng_seed(seed)
    course, seconds = [], 0.0
    for step in range(1, effort.steps + 1):
        rows = torch.randperm(len(data.train), generator=order)[:MINIBATCH]
        start = time.process_time()
        optimizer.zero_grad()
        objective.loss_and_grads(net.model, net.guide, data.train[rows])
        optimizer.step()
        seconds += time.process_time() - start
        if step in effort.glances:
            with torch.random.fork_rng():  # a run's noise is that of one that is not watched
                seen = _log_evidence(net, data.held_out, min(effort.draws, 200), effort.chunk)
            course.append(seen.value / len(data.held_out))
    evidence = _log_evidence(net, data.held_out, effort.draws, effort.chunk)
    (group,) = evidence.groups
    parts = dsvi.diagnostics.bound_decomposition(
        net.model,
        net.guide,
        data.held_out,
        num_samples=max(2, effort.draws // 10),
        chunk=effort.chunk,
        vectorize_particles=True,
        log_evidence=evidence,
    )
    return Found(
        log_p=group.value.numpy(),
        error=group.standard_error.numpy(),
        share=(group.effective_sample_size / effort.draws).numpy(),
        elbo=sum((term.value.double() for term in parts.terms), torch.zeros(())).numpy(),
        bound=-objective.loss(net.model, net.guide, data.train) / len(data.train),
        course=course,
        seconds=seconds,
    )


def _log_evidence(net: Autoencoder, x: Tensor, draws: int, chunk: int) -> LogEvidence:
    return dsvi.log_evidence(
        net.model, net.guide, x, num_particles=draws, chunk=chunk, vectorize_particles=True
    )


def tabulate(report: Report, runs: Mapping[str, Sequence[Found]], effort: Effort) -> None:
    """Tables, claims and panels."""
    log_p = {name: np.stack([found.log_p for found in each]) for name, each in runs.items()}
    held_out = {name: difference(each) for name, each in log_p.items()}
    pairs = {n: difference(each, log_p[BASE]) for n, each in log_p.items() if n != BASE}
    noise = {name: _noise([found.error for found in each]) for name, each in runs.items()}
    gaps = {n: difference(np.stack([f.log_p - f.elbo for f in each])) for n, each in runs.items()}
    rows, paired = [], []
    for name, each in runs.items():
        share = np.stack([found.share for found in each])
        rows.append(
            (
                name,
                f"{np.mean([found.bound for found in each]):.3f}",
                f"{held_out[name].value:.3f} ± {held_out[name].by_data:.3f}",
                f"{noise[name]:.4f}",
                f"{-np.mean([(found.error**2).mean() / 2 for found in each]):.4f}",
                f"{gaps[name].value:.3f} ± {gaps[name].by_data:.3f}",
                f"{np.median(share):.3f}",
                f"{share.min():.4f}",
                f"{np.mean([found.seconds for found in each]):.1f}",
            )
        )
    for name, pair in pairs.items():
        by_seed = ", ".join(f"{x:+.3f}" for x in pair.by_seed)
        seeds = "-" if pair.by_seeds is None else f"{pair.by_seeds:.3f}"
        cells = f"{pair.value:+.3f}", f"{pair.by_data:.3f}", seeds, by_seed
        paired.append((name, *cells, "clear" if pair.clear else "within its error"))
    columns = ("", "training bound", "held-out log p(x)", "Monte Carlo error", "its bias")
    columns += ("log p(x) − ELBO", "median ESS ÷ draws", "least", "CPU s of training")
    report.tables.append(
        Table("nats a datum; ± is the standard error over held-out data", columns, rows)
    )
    columns = ("", "difference", "error by data", "error by seeds", "by seed", "")
    title = f"held-out log p(x) less {BASE}'s, nats a datum, paired by datum and seed"
    report.tables.append(Table(title, columns, paired))
    report.notes.append(verdict(pairs, BASE))
    _claim(report, held_out, noise)
    report.panels += [
        Bars(f"{title} (± 2 errors)", list(pairs), [p.interval for p in pairs.values()], 0.0),
        Bars(
            "held-out log p(x) − ELBO, nats a datum",
            list(gaps),
            [g.over_data for g in gaps.values()],
        ),
        Lines(
            "held-out −log p(x), nats a datum",
            "steps",
            {
                name: (effort.glances, (-np.mean([f.course for f in each], 0)).tolist())
                for name, each in runs.items()
            },
        ),
    ]
    report.data["paired differences"] = {name: vars(pair) for name, pair in pairs.items()}


def _noise(errors: Sequence[np.ndarray]) -> float:
    """Monte Carlo standard error of a mean over seeds and data."""
    return float(np.sqrt(np.square(errors).sum())) / np.size(errors)


def _claim(report: Report, held_out: Mapping[str, Difference], noise: Mapping[str, float]) -> None:
    worst = max(noise[name] / held_out[name].by_data for name in noise)
    what = "Monte Carlo error of held-out log p(x) ÷ its error over data, at most"
    report.targets.append(Target(what, Interval(worst, worst, worst), NOISE_AT_MOST))


def _notes(data: Digits, effort: Effort, seeds: Sequence[int]) -> list[str]:
    return [
        f"{len(data.train)} digits to train on, {len(data.held_out)} held out; a pixel is 1 where "
        f"its intensity of 0 to 16 is above {THRESHOLD}; 64-100-16, tanh; {effort.steps} steps of "
        f"Adam at {RATE} on minibatches of {MINIBATCH}, the same for all and not to convergence; "
        f"{PARTICLES} particles a datum and step (MIWAE, PIWAE: {GROUPS[0]} groups of {GROUPS[1]}; "
        f"CIWAE: beta {BETA}; TVO: 5 intervals, left)",
        f"log p(x) by {effort.draws} draws a datum; seeds {', '.join(map(str, seeds))}: of first "
        "parameters, minibatches and noise, which all objectives share",
    ]


def _record(found: Found) -> dict[str, object]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(found).items()
    }
