r"""Bounds on the evidence of the noisy cone, whose posterior is a ring (Becker et al. 2024).

Each guide is trained by an objective of ours, and then its ELBO and its K-sample bounds are
averaged over independent draws.  The evidence is known by quadrature, and peers' values from their
paper: ELBO -8.08, IWAE with 5 particles -7.75, and -7.33 with an auxiliary variable.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.distributions.transforms import iterated, spline_autoregressive
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.optim import ClippedAdam
from torch import Tensor

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval
from benchmarks.programs import cone
from benchmarks.report import Densities, Report, Settings, Table, Target

NAME = "cone"
PEERS = {"ELBO": -8.08, "IWAE-5": -7.75, "auxiliary variable": -7.33}
WITHIN = 0.1  # nats
BOUNDS = (1, 5, 512)  # particles
FLAT = {"vectorize_particles": True, "max_plate_nesting": 0}
AREA, BINS = 3.2, 128


class Row(NamedTuple):
    """A guide and how it is trained.

    Attributes:
        name: of the guide.
        trained_by: the objective's name.
        model: the cone, with whatever the guide's auxiliary variables ask of it.
        guide: makes the guide.
        objective: makes the objective.
        claimed: particles of the bound that is claimed to be near the evidence, if any is.
    """

    name: str
    trained_by: str
    model: Callable[[], Any]
    guide: Callable[[], Callable[[], Any]]
    objective: Callable[[], dsvi.Objective]
    claimed: int | None = None


def _flow() -> AutoNormalizingFlow:
    layer = partial(spline_autoregressive, hidden_dims=[32], count_bins=16, bound=5.0)
    return AutoNormalizingFlow(cone.model, partial(iterated, 2, layer))


def _given(guide: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
    return lambda: guide


def _elbo() -> dsvi.Objective:
    return dsvi.PathwiseELBO(num_particles=64, **FLAT)


def _five() -> dsvi.Objective:
    return dsvi.MIWAE(64, 5, frozen=True, **FLAT)


def _many() -> dsvi.Objective:
    return dsvi.DReG(512, **FLAT)


def _landing() -> dsvi.Objective:
    return dsvi.STL(num_particles=64, **FLAT)


MEAN_FIELD, CIRCLE = _given(cone.mean_field), _given(cone.blurred_circle)
MANY = "DReG, K=512"
ROWS = (
    Row("mean field", "ELBO", cone.model, MEAN_FIELD, _elbo),
    Row("mean field", "MIWAE(64, 5), frozen", cone.model, MEAN_FIELD, _five),
    Row("mean field", MANY, cone.model, MEAN_FIELD, _many, 512),
    Row("spline flow", "ELBO", cone.model, _flow, _elbo),
    Row(
        "blurred circle, uniform angle",
        "MIWAE(64, 5), frozen",
        cone.model_uniform_angle,
        CIRCLE,
        _five,
    ),
    Row("blurred circle, von Mises angle", "ELBO", cone.model_von_mises_angle, CIRCLE, _elbo, 1),
    Row("polar", "STL", cone.model, _given(cone.polar), _landing, 1),
)


def run(settings: Settings) -> Report:
    """Train and judge every guide."""
    steps, draws = (3, 2048) if settings.quick else (1000, 2**19)
    truth = cone.log_evidence()
    report = Report(NAME, "Bounds on log p(z = 5) of the noisy cone, in nats")
    report.notes = [
        f"log p(z = 5) = {truth:.4f} by quadrature; published: "
        + ", ".join(f"{name} {value}" for name, value in PEERS.items()),
        f"{steps} steps of Adam, then {draws} draws of each guide; ± is one standard error",
    ]
    rows, densities = [], {"posterior": _posterior()}
    for row in ROWS:
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(settings.seed)
            guide = row.guide()
            seconds = train(row, guide, steps)
            log_w = log_weights(row.model, guide, draws)
            densities[f"{row.name}\n{row.trained_by}"] = _density(guide, draws)
        found = {size: bound(log_w, size) for size in BOUNDS}
        shown = (f"{value:.5f} ± {error:.5f}" for value, error in found.values())
        rows.append((row.name, row.trained_by, *shown, f"{seconds:.1f}"))
        report.data[f"{row.name}, {row.trained_by}"] = {
            "bounds and standard errors": {str(size): pair for size, pair in found.items()},
            "CPU seconds of training": seconds,
        }
        if row.claimed is not None:
            which = "ELBO" if row.claimed == 1 else f"IWAE-{row.claimed}"
            what = f"nats between log p and {which}: {row.name}"
            report.targets.append(Target(what, _distance(truth, *found[row.claimed]), WITHIN))
    names = ("ELBO", *(f"IWAE-{size}" for size in BOUNDS[1:]))
    report.tables.append(Table("", ("guide", "trained by", *names, "CPU s"), rows))
    report.panels.append(Densities("the posterior and the guides, x and y", AREA, densities))
    report.data |= {"log p(z)": truth, "published": PEERS}
    return report


def train(row: Row, guide: Callable[[], Any], steps: int) -> float:
    """CPU seconds that it took."""
    begin = time.process_time()
    optimizer = ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(row.model, guide, optimizer, row.objective())
    for _ in range(steps):
        svi.step()
    return time.process_time() - begin


@torch.no_grad()
def log_weights(model: Callable[[], Any], guide: Callable[[], Any], draws: int) -> Tensor:
    """Independent log weights, auxiliary variables and all, ``[draws]``."""
    objective = dsvi.IWAE(draws, chunk=2**15, **FLAT)
    chunks = objective.weigh(model, guide, (), {})
    return torch.cat([bundle.log_w.reshape(-1) for _, (bundle,), _, _ in chunks])


def bound(log_w: Tensor, size: int) -> tuple[float, float]:
    """The bound of so many particles, and its standard error over independent estimates."""
    count = len(log_w) // size
    estimates = log_w[: count * size].reshape(count, size).logsumexp(1) - math.log(size)
    return float(estimates.mean()), float(estimates.std()) / math.sqrt(count)


def _distance(truth: float, value: float, error: float) -> Interval:
    off, reach = truth - value, 1.96 * error
    low = max(0.0, abs(off) - reach)
    return Interval(abs(off), low, abs(off) + reach)


def _posterior() -> np.ndarray:
    middles = (np.arange(BINS) + 0.5) / BINS * 2 * AREA - AREA
    return cone.posterior_density(middles[None, :], middles[:, None])


@torch.no_grad()
def _density(guide: Callable[[], Any], draws: int) -> np.ndarray:
    """Histogram of the guide's x and y, a row for each y."""
    with pyro.plate("draws", min(draws, 2**17)):
        drawn = guide()
    x, y = (drawn[name].numpy() for name in ("x", "y"))
    edges = np.linspace(-AREA, AREA, BINS + 1)
    counts = np.histogram2d(y, x, bins=(edges, edges))[0]
    return counts / len(x) / (2 * AREA / BINS) ** 2
