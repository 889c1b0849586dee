"""What a pathwise step costs beside Pyro's ``Trace_ELBO``, which does the same mathematics.

That it is the same is checked first: with the same seed both must give the same gradient.
"""

from collections.abc import Callable

import torch
from pyro.infer import Trace_ELBO

import pyro_dsvi as dsvi
from benchmarks.interleave import pinned
from benchmarks.programs.eight_schools import eight_schools
from benchmarks.programs.logistic_regression import logistic_regression
from benchmarks.programs.vae import vae
from benchmarks.report import Bars, Report, Settings, Target
from benchmarks.training import Losses, Program, Trainee, how, time_losses

NAME = "pathwise"
OURS = "dsvi.PathwiseELBO"
LOSSES: Losses = {"Trace_ELBO": Trace_ELBO, OURS: dsvi.PathwiseELBO}
COST_AT_MOST = 1.0
WORKLOADS: dict[str, Callable[[], Program]] = {
    "eight schools, AutoNormal": eight_schools,
    "logistic regression, minibatch 64, AutoNormal": logistic_regression,
    "VAE 784-400-20, batch 128": vae,
}


def run(settings: Settings) -> Report:
    """Time the steps on each workload."""
    rounds = 3 if settings.quick else 100
    report = Report(NAME, "a pathwise step beside Trace_ELBO's")
    report.notes.append(how(settings, rounds))
    with pinned(settings.threads):
        for words, make in WORKLOADS.items():
            gap = difference(make, settings.seed)
            report.data[f"{words}, largest relative difference of gradients"] = gap
            if gap > 1e-4:
                raise RuntimeError(f"{words}: the contenders' gradients differ by {gap:.2g}")
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
                )
                switch = "on" if validation else "off"
                what = f"CPU time a step ÷ Trace_ELBO: {words}, validation {switch}"
                report.targets.append(Target(what, found[OURS][1], COST_AT_MOST))
                ratios = [ratio for _, ratio in found.values()]
                report.panels.append(Bars(what, list(found), ratios, COST_AT_MOST))
    report.notes.append("with the same seed the contenders' gradients agree (largest gap in JSON)")
    return report


def difference(make: Callable[[], Program], seed: int) -> float:
    """Largest difference between the losses' gradients at one seed, over the largest entry."""
    theirs, ours = (
        Trainee(make, loss(), validation=False, seed=seed).gradients(range(seed + 1, seed + 3))
        for loss in LOSSES.values()
    )
    assert isinstance(theirs, torch.Tensor)
    return float((theirs - ours).abs().max() / theirs.abs().max())
