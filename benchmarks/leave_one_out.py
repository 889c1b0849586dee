"""Leave-one-out cross-validation from a guide's draws, against NUTS and the exact answer.

On a hierarchical regression with four groups of eight, whose expected log predictive density is
known by quadrature.  One guide is mean-field and fitted by the evidence lower bound, the other of
full rank and fitted by DReG, whose bound minds the tails.  NUTS needs its many draws: with 2,000
of them its own estimate is as far from the answer as what it is to judge.
"""

import warnings
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS, SVI
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval
from benchmarks.programs.hierarchical_regression import data, exact, model
from benchmarks.report import Bars, Report, Settings, Table, Target

NAME = "leave-one-out"
GUIDES: dict[str, tuple[type, Callable[[], dsvi.Objective]]] = {
    "mean field, ELBO": (AutoNormal, lambda: dsvi.PathwiseELBO(num_particles=8)),
    "full rank, DReG": (AutoMultivariateNormal, lambda: dsvi.DReG(num_particles=8)),
}
TRUSTED = "full rank, DReG"
WITHIN = 0.1  # nats, of NUTS
OFF = 0.2  # nats, at least, without the correction


def run(settings: Settings) -> Report:
    """Both guides, corrected and not, NUTS, and the exact answer."""
    steps, draws, samples = (20, 100, 20) if settings.quick else (500, 40_000, 20_000)
    x, y = data()
    log_evidence, elpd_i = exact(x, y)
    truth = float(elpd_i.sum())
    pyro.set_rng_seed(settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of merged plates, and of k̂, which is in the table
        kernel = NUTS(model, jit_compile=not settings.quick, ignore_jit_warnings=True)
        chain = MCMC(kernel, samples, warmup_steps=min(samples, 1000), disable_progbar=True)
        chain.run(x, y)
        nuts = dsvi.loo(dsvi.to_arviz(model, chain, x, y, prior=False))
        found = {name: _guided(name, x, y, steps, draws) for name in GUIDES}

    rows = [_row("exact", "-", None, truth, truth), _row("NUTS", "-", nuts, nuts.elpd_loo, truth)]
    for name, (bound, corrected, naive) in found.items():
        rows.append(_row(name, f"{bound:.2f}", corrected, corrected.elpd_loo, truth))
        rows.append(_row(f"{name}, uncorrected", f"{bound:.2f}", naive, naive.elpd_loo, truth))
    _, corrected, naive = found[TRUSTED]
    ours, without = (abs(float(e.elpd_loo - nuts.elpd_loo)) for e in (corrected, naive))
    report = Report(NAME, "Is leave-one-out cross-validation right with a guide's draws?")
    report.notes = [
        f"{draws} draws of each guide after {steps} steps, {samples} samples of NUTS; log evidence "
        f"{log_evidence:.2f} nats",
    ]
    columns = ("draws of", "bound", "largest k̂", "elpd (nats)", "error")
    report.tables = [Table("expected log predictive density", columns, rows)]
    report.targets = [
        Target(f"{TRUSTED}: nats between the corrected elpd and NUTS's", _point(ours), WITHIN),
        Target(f"{TRUSTED}: {OFF} nats over the uncorrected's distance", _point(OFF / without), 1),
    ]
    errors = {row[0]: abs(float(row[4])) for row in rows[1:]}
    values = [_point(e) for e in errors.values()]
    report.panels = [Bars("distance from the exact elpd (nats)", list(errors), values, WITHIN)]
    report.data = {"exact": truth, "log_evidence": log_evidence, "rows": rows}
    return report


def _guided(name: str, x: torch.Tensor, y: torch.Tensor, steps: int, draws: int) -> Any:
    """The bound, and both cross-validations, of one guide."""
    kind, objective = GUIDES[name]
    with pyro.get_param_store().scope():
        guide = kind(model, init_scale=0.2)
        optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.05 ** (1 / steps)})
        svi = SVI(model, guide, optimizer, objective())
        for _ in range(steps):
            svi.step(x, y)
        idata = dsvi.to_arviz(model, guide, x, y, num_samples=draws, prior=False, chunk_size=5000)
    stats = idata.sample_stats
    bound = float((stats["lp"] - stats["log_q"]).mean())
    return bound, dsvi.loo(idata), az.loo(idata, pointwise=True)


def _row(name: str, bound: str, found: Any, elpd: float, truth: float) -> tuple[str, ...]:
    k = "-" if found is None else f"{float(np.max(found.pareto_k)):.2f}"
    return name, bound, k, f"{elpd:.3f}", f"{elpd - truth:+.3f}"


def _point(value: float) -> Interval:
    return Interval(value, value, value)
