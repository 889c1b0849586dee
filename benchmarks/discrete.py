"""A Bernoulli autoencoder of 200 bits on scikit-learn's digits, trained by each discrete estimator.

Every estimator trains the same network from the same start on the same minibatches.  One run gives
its bound after equal steps, and, by the CPU time that went by, after as much time as the quickest
one took for all of its steps.  The bound is always that of the hard bits.  The gradient's variance
is measured on one minibatch at parameters common to all: those of the start, and those at which
leave-one-out arrived, with whatever each estimator has learnt in its own run.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.credit import variances
from benchmarks.interleave import Interval, pinned
from benchmarks.report import Bars, Report, Settings, Table, Target
from pyro_dsvi.errors import BiasedEstimatorWarning

NAME = "discrete"
BITS, PIXELS, MINIBATCH = 200, 64, 100
BASE, LEAVE_ONE_OUT, REBAR = "score function", "score + leave-one-out", "REBAR"
Make = Callable[[], dsvi.estimators.Estimator]


def estimators() -> dict[str, tuple[int, Make]]:
    """Particles and estimator by name: those that an event of 200 bits is offered.

    ``Enumerate``, ``WithoutReplacement`` and ``SumAndSample`` refuse it for its 2^200 values, and
    ``MeasureValued`` would run the programs 200 times a step.
    """
    room = dsvi.estimators
    return {
        BASE: (1, room.ScoreFunction),
        "score + moving average": (1, lambda: room.ScoreFunction(dsvi.MovingAverage())),
        LEAVE_ONE_OUT: (2, lambda: room.ScoreFunction(dsvi.LeaveOneOut())),
        REBAR: (1, room.REBAR),
        "RELAX": (1, lambda: room.RELAX(_network())),
        "RELAX, network alone": (1, lambda: room.RELAX(_network(), scale=None)),
        "ARM": (1, room.ARM),
        "DisARM": (1, room.DisARM),
        "StraightThrough": (1, room.StraightThrough),
        "GumbelSoftmax": (1, partial(room.GumbelSoftmax, 0.5)),
    }


def _network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(BITS, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1))


class Autoencoder(torch.nn.Module):
    """Encoder and decoder, linear; the bits' prior logits are learnt as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(PIXELS, BITS)
        self.decoder = torch.nn.Linear(BITS, PIXELS)
        self.prior = torch.nn.Parameter(torch.zeros(BITS))

    def model(self, x: Tensor) -> None:
        """The generative program, of a minibatch."""
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(b)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """The bits given the pixels."""
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=self.encoder(x - 0.5)).to_event(1))


@dataclass
class Run:
    """What came of an estimator's training: CPU seconds and the bound in nats a datum, by step."""

    estimator: dsvi.estimators.Estimator
    particles: int
    state: dict[str, Tensor]
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)


def digits() -> Tensor:
    """The pixels, black or white, shape ``[1797, 64]``."""
    from sklearn.datasets import load_digits

    return torch.as_tensor(load_digits().data > 7.5, dtype=torch.float32)


def run(settings: Settings) -> Report:
    """Train by each, then compare bounds and variances."""
    steps, every, repeats = (10, 5, 12) if settings.quick else (2000, 100, 100)
    report = Report(NAME, "a Bernoulli autoencoder of 200 bits, trained by each estimator")
    report.notes.append(
        f"binarised digits, 1797 images of 64 pixels; linear encoder and decoder; {steps} steps of "
        f"Adam on minibatches of {MINIBATCH}; bound of hard bits on all data, 4 draws an image; "
        f"{repeats} gradients of the encoder for each variance; seed {settings.seed}; "
        "Enumerate, WithoutReplacement and SumAndSample refuse an event of 2^200 values, and "
        "MeasureValued would run the programs 200 times a step"
    )
    x = digits()
    with pinned(settings.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", BiasedEstimatorWarning)  # the table says which
        runs = {
            name: _train(x, particles, make, steps, every, settings.seed)
            for name, (particles, make) in estimators().items()
        }
        torch.manual_seed(settings.seed)
        start = {k: v.clone() for k, v in Autoencoder().state_dict().items()}
        found = {
            "start": _measure(x, runs, start, repeats, settings.seed),
            "trained": _measure(x, runs, runs[LEAVE_ONE_OUT].state, repeats, settings.seed),
        }
    _tabulate(report, runs, found)
    return report


def _objective(estimator: dsvi.estimators.Estimator, particles: int) -> dsvi.Objective:
    return dsvi.Objective(
        dsvi.bounds.Evidence(),
        num_particles=particles,
        vectorize_particles=True,
        max_plate_nesting=1,
        estimators={"b": estimator},
    )


def _train(x: Tensor, particles: int, make: Make, steps: int, every: int, seed: int) -> Run:
    pyro.set_rng_seed(seed)
    net = Autoencoder()
    estimator = make()
    objective = _objective(estimator, particles)
    learnt = [*net.parameters(), *objective.baselines.parameters()]
    optimizer = torch.optim.Adam(learnt, lr=3e-3)
    order = torch.Generator().manual_seed(seed)
    found, elapsed = Run(estimator, particles, {}), 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(x), (MINIBATCH,), generator=order)
        began = time.process_time()
        optimizer.zero_grad()
        objective.loss_and_grads(net.model, net.guide, x[rows])
        optimizer.step()
        elapsed += time.process_time() - began
        if step % every == 0:
            found.steps.append(step)
            found.seconds.append(elapsed)
            found.bound.append(_bound(net, x))
    found.state = {name: value.clone() for name, value in net.state_dict().items()}
    return found


def _bound(net: Autoencoder, x: Tensor) -> float:
    hard = _objective(dsvi.ScoreFunction(), 4)
    with torch.random.fork_rng():  # the run's own draws are those of a run that is not watched
        return -hard.loss(net.model, net.guide, x) / len(x)


def _measure(
    x: Tensor, runs: dict[str, Run], state: dict[str, Tensor], repeats: int, seed: int
) -> dict[str, Interval]:
    """Total variance of the encoder's gradient by estimator, at the given parameters."""
    net = Autoencoder()
    net.load_state_dict(state)
    parameters = list(net.encoder.parameters())
    draws = {}
    for name, found in runs.items():
        pyro.set_rng_seed(seed)
        objective = _objective(found.estimator, found.particles)
        rows = []
        for _ in range(repeats + 1):  # the first one brings what is fitted to these parameters
            net.zero_grad()
            objective.loss_and_grads(net.model, net.guide, x[:MINIBATCH])
            grads = [p.grad.flatten() for p in parameters if p.grad is not None]
            rows.append(torch.cat(grads) / MINIBATCH)
        draws[name] = torch.stack(rows[1:]).double().numpy()
    total, _ = variances(draws, against=BASE, seed=seed, resamples=500)
    return total


def _tabulate(report: Report, runs: dict[str, Run], found: dict[str, dict[str, Interval]]) -> None:
    quickest = min(run.seconds[-1] for run in runs.values())
    in_time = {n: float(np.interp(quickest, r.seconds, r.bound)) for n, r in runs.items()}
    rows = []
    for name, each in runs.items():
        variance = [found[stage][name] for stage in found]
        kind = each.estimator.bias.value
        cost = each.seconds[-1] / runs[BASE].seconds[-1]
        cells = [f"{v.value:.3g} ({v.low:.3g} .. {v.high:.3g})" for v in variance]
        bounds = f"{each.bound[-1]:.2f}", f"{in_time[name]:.2f}"
        rows.append((name, str(each.particles), kind, *bounds, *cells, f"{cost:.2f}"))
    columns = ("", "draws", "gradient", "bound, equal steps", "bound, equal time")
    columns += ("variance, start", "variance, trained", f"CPU time ÷ {BASE}")
    title = f"bound in nats an image after all steps, and after {quickest:.1f} s of CPU time"
    report.tables.append(Table(title, columns, rows))
    names = list(runs)
    exact = {"equal steps": {n: r.bound[-1] for n, r in runs.items()}, "equal time": in_time}
    for what, by_name in exact.items():
        values = [Interval(by_name[n], by_name[n], by_name[n]) for n in names]
        report.panels.append(Bars(f"bound after {what}, nats an image", names, values))
    for stage, by_name in found.items():
        logs = [Interval(*np.log10([v.value, v.low, v.high]).tolist()) for v in by_name.values()]
        report.panels.append(Bars(f"log10 of the gradient's variance, {stage}", names, logs))
    rebar, plain = found["trained"][REBAR], found["trained"][BASE]
    ratio = Interval(rebar.value / plain.value, rebar.low / plain.high, rebar.high / plain.low)
    report.targets.append(Target(f"variance of {REBAR} ÷ {BASE}, trained", ratio, 1.0))
    report.data["training"] = {
        n: {"steps": r.steps, "seconds": r.seconds, "bound": r.bound} for n, r in runs.items()
    }
    report.data["variance"] = {s: {n: vars(v) for n, v in by.items()} for s, by in found.items()}
