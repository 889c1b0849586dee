"""What a pathwise step costs beside Pyro's ``Trace_ELBO``, which does the same mathematics.

That it is the same is checked first: with the same seed both must give the same gradient.
"""

import torch
from pyro.infer import Trace_ELBO

import pyro_dsvi as dsvi
from benchmarks.compare import Losses, how, time_losses
from benchmarks.contenders.in_pyro import Stepwise
from benchmarks.interleave import pinned
from benchmarks.problem import Make
from benchmarks.programs.eight_schools import EightSchools
from benchmarks.programs.logistic_regression import LogisticRegression
from benchmarks.programs.vae import VAE
from benchmarks.report import Bars, Report, Settings, Target

NAME = "pathwise"
OURS = "dsvi.PathwiseELBO"
LOSSES: Losses = {"Trace_ELBO": Trace_ELBO, OURS: dsvi.PathwiseELBO}
COST_AT_MOST = 1.0
WORKLOADS: dict[str, Make] = {
    "eight schools, AutoNormal": lambda: EightSchools().in_pyro(),
    "logistic regression, minibatch 64, AutoNormal": lambda: LogisticRegression().in_pyro(),
    "VAE 784-400-20, batch 128": lambda: VAE().in_pyro(),
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


def difference(make: Make, seed: int) -> float:
    """Largest difference between the losses' gradients at one seed, over the largest entry."""
    theirs, ours = (
        Stepwise(make, loss(), validation=False, seed=seed).gradients(range(seed + 1, seed + 3))
        for loss in LOSSES.values()
    )
    assert isinstance(theirs, torch.Tensor)
    return float((theirs - ours).abs().max() / theirs.abs().max())
