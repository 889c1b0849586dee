"""How few weights variational dropout leaves in two classic networks, and what they still know.

Every weight has a log-uniform prior and noise of its own; networks start untrained, the divergence
is warmed up, the step size of Adam falls to zero, and what has log alpha above a threshold is taken
out: the lowest one whose training error is within one standard error of that at 3 (the rule by
which Breiman et al. prune trees), so that no test image has a say.  On 4,000 images the divergence
of a quarter of a million weights outweighs the likelihood more than on the 60,000 of the
literature, so networks become sparser than there, and know less.

The local reparameterisation is what makes it train: by weights drawn once for a minibatch the
gradient's noise drowns the slope that drives a weight out.

References: Molchanov, Ashukha, Vetrov (2017), whose warm-up and step-size rule are used; Breiman,
Friedman, Olshen, Stone (1984), section 3.4.3.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval, pinned
from benchmarks.programs.mnist5k import Digits, mnist5k
from benchmarks.report import Lines, Report, Settings, Table, Target

NAME = "sparse"
COMPRESSION_AT_LEAST, ERROR_AT_MOST = 300.0, 0.095
BATCH = 100
THRESHOLDS = (3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0)


def lenet_300_100() -> nn.Module:
    """Three linear layers; 266,200 weights."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(784, 300), nn.ReLU()),
        *(nn.Linear(300, 100), nn.ReLU()),
        nn.Linear(100, 10),
    )


def lenet_5() -> nn.Module:
    """Two convolutions and two linear layers; 430,500 weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU()),
        nn.Linear(500, 10),
    )


@dataclass(frozen=True)
class Race:
    """One network, and how it is trained.

    Attributes:
        build: the network.
        epochs: passes over the training set.
        rate: Adam's step size at the start.
        wait: share of the steps without a divergence.
        warm_up: share of the steps in which it comes in, after that.
        init_scale: standard deviation of the noise at the start.
        conv: how convolutions get their noise.
    """

    build: Callable[[], nn.Module]
    epochs: int
    rate: float
    wait: float = 0.02
    warm_up: float = 0.2
    init_scale: float = 0.01
    conv: str = "per_example"


RACES = {
    "LeNet-300-100": Race(lenet_300_100, epochs=250, rate=1e-3, wait=0.0, warm_up=0.12),
    "LeNet-5": Race(lenet_5, epochs=40, rate=6e-3, init_scale=0.05),
}


@dataclass(frozen=True)
class Outcome:
    """A sparse network and the way to it.

    Attributes:
        pruned: the network.
        error: its share of wrong labels on the test set.
        dense: the same for the network of all means.
        epochs: when it was looked at.
        left: share of the weights that were left at these times.
        errors: test errors at these times.
        seconds: CPU time of the training, compilation included.
        threshold: that of log alpha at which the network was pruned.
        thresholds: thresholds, and the weights left, compression, training and test error with
            each.
    """

    pruned: dsvi.nn.Pruned
    error: float
    dense: float
    epochs: list[int]
    left: list[float]
    errors: list[float]
    seconds: float
    threshold: float
    thresholds: list[tuple[float, int, float, float, float]]


def run(settings: Settings) -> Report:
    """Train, prune and test each network."""
    report = Report(NAME, "weights left by variational dropout, and the error with them")
    report.notes.append(
        f"MNIST-5k, 4,000 images to train on and 1,000 to test on (split and training by seed "
        f"{settings.seed}); minibatches of {BATCH}, one draw a step, local reparameterisation; "
        "log-uniform prior on weights, biases trained without a prior; threshold: the lowest whose "
        f"training error is within one standard error of that at {THRESHOLDS[0]:g}; "
        "compression: weights ÷ weights left; the whole: biases counted as left"
    )
    rows, series = [], {}
    with pinned(settings.threads):
        train, test = mnist5k(settings.seed)
        if settings.quick:
            train = Digits(*(part[::20] for part in train))
        for name in settings.only or RACES:
            print(f"{name} ...", flush=True)
            found = sparsify(RACES[name], train, test, settings)
            print(found.pruned, flush=True)
            rows.append(_row(name, found))
            report.tables.append(_by_threshold(name, found))
            series[name] = (found.epochs, found.left)
            report.data[name] = _facts(found)
            report.targets += _targets(name, found)
    columns = [
        "network",
        "weights",
        "threshold",
        "left",
        "compression",
        "of the whole",
        "test error",
    ]
    report.tables.append(Table("after pruning", [*columns, "unpruned", "CPU s"], rows))
    report.panels.append(Lines("share of the weights that is left", "epoch", series))
    return report


def sparsify(race: Race, train: Digits, test: Digits, settings: Settings) -> Outcome:
    """Train a network by variational dropout, and prune it."""
    pyro.clear_param_store()
    pyro.set_rng_seed(settings.seed)
    network = dsvi.nn.bayesianize(race.build(), dsvi.distributions.LogUniform(), "*.weight")
    count, batch = len(train.labels), torch.arange(BATCH)

    def model(images: torch.Tensor, labels: torch.Tensor) -> None:
        logits = network(images)
        with pyro.plate("data", count, subsample=batch):
            pyro.sample("label", dist.Categorical(logits=logits), obs=labels)

    init = dsvi.nn.init_to_network(network)
    guide = dsvi.guides.AutoVariationalDropout(model, init_loc_fn=init, init_scale=race.init_scale)
    epochs = 2 if settings.quick else race.epochs
    steps = epochs * count // BATCH
    ramp = dsvi.handlers.warm_up(math.ceil(race.warm_up * steps), wait=int(race.wait * steps))
    local = dsvi.handlers.local_reparameterization(conv=race.conv)
    optim = pyro.optim.LambdaLR(
        {
            "optimizer": torch.optim.Adam,
            "optim_args": {"lr": race.rate},
            "lr_lambda": lambda epoch: 1 - epoch / epochs,
        }
    )
    svi_of = pyro.infer.SVI if settings.quick else dsvi.CompiledSVI
    elbo = dsvi.PathwiseELBO(analytic_kl=True)
    svi = svi_of(ramp(model), local(ramp(guide)), optim, elbo)
    seen: list[tuple[int, float, float]] = []
    start = time.process_time()
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(count).split(BATCH):
            svi.step(train.images[rows], train.labels[rows])
            ramp.advance()
        optim.step()
        if epoch % max(1, epochs // 20) == 0:
            pruned = dsvi.nn.prune(network, guide)
            seen.append((epoch, 1 / pruned.compression, error_of(pruned.net, test)))
            print("epoch {}: {:.3%} left, error {:.1%}".format(*seen[-1]), flush=True)
    seconds = time.process_time() - start
    others = [(t, dsvi.nn.prune(network, guide, threshold=t)) for t in THRESHOLDS]
    thresholds = [
        (t, sum(p.nonzero.values()), p.compression, error_of(p.net, train), error_of(p.net, test))
        for t, p in others
    ]
    error = thresholds[0][3]
    allowed = error + _standard_error(error, count)
    known = [row[3] <= allowed for row in thresholds]
    threshold, pruned = [pair for pair, well in zip(others, known, strict=True) if well][-1]
    dense = dsvi.nn.prune(network, guide, threshold=math.inf)
    errors = error_of(pruned.net, test), error_of(dense.net, test)
    course = map(list, zip(*seen, strict=True))
    return Outcome(pruned, *errors, *course, seconds, threshold, thresholds)


@torch.no_grad()
def error_of(net: nn.Module, digits: Digits) -> float:
    """Share of wrong labels."""
    return (net(digits.images).argmax(-1) != digits.labels).double().mean().item()


def _standard_error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


def _row(name: str, found: Outcome) -> list[str]:
    pruned = found.pruned
    return [
        name,
        str(sum(pruned.total.values())),
        f"{found.threshold:g}",
        str(sum(pruned.nonzero.values())),
        f"{pruned.compression:.1f}",
        f"{pruned.compression_of_all:.1f}",
        f"{found.error:.1%}",
        f"{found.dense:.1%}",
        f"{found.seconds:.0f}",
    ]


def _by_threshold(name: str, found: Outcome) -> Table:
    rows = [
        [f"{threshold:g}", str(left), f"{compression:.1f}", f"{known:.2%}", f"{error:.1%}"]
        for threshold, left, compression, known, error in found.thresholds
    ]
    columns = ("pruned at log alpha above", "left", "compression", "training error", "test error")
    return Table(f"{name}: other thresholds", columns, rows)


def _facts(found: Outcome) -> dict[str, Any]:
    facts = asdict(replace(found, pruned=None))  # pyright: ignore[reportArgumentType]
    pruned = found.pruned
    return facts | {"pruned": {"total": pruned.total, "nonzero": pruned.nonzero}}


def _targets(name: str, found: Outcome) -> list[Target]:
    share, error = 1 / found.pruned.compression, found.error
    # Of a share among 1,000 test images: the normal interval of a binomial.
    half = 1.96 * _standard_error(error, 1000)
    return [
        Target(
            f"{name}: weights left × {COMPRESSION_AT_LEAST:g} ÷ weights",
            Interval(*3 * (share * COMPRESSION_AT_LEAST,)),
            1.0,
        ),
        Target(f"{name}: test error", Interval(error, error - half, error + half), ERROR_AT_MOST),
    ]
