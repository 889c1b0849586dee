"""Fit a relevance vector machine to the breast cancer data by four gradient estimators.

All four fits have the same model, guide, learning rate schedule, seed, particles and number of
steps; only the estimator of the gradient differs.
"""

import argparse
import importlib.util
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from pyro_dsvi.demo import report
from pyro_dsvi.demo.fitting import KEPT, Settings, estimators, fit, logistic_regression
from pyro_dsvi.demo.problem import Data, load

NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "h5netcdf": "h5netcdf"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the four fits and report on them.

    Args:
        arguments: the command line's, without the program's name; None for those it was given.

    Raises:
        SystemExit: if a package of the extra is missing, or an argument cannot work.
    """
    options = parser().parse_args(arguments)
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise SystemExit(f'the demo needs {package}: pip install "pyro-dsvi[demo]"')
    start = time.perf_counter()
    settings, data = settings_of(options), load()
    tqdm.write(introduction(data, settings))
    with _one_thread():
        contestants = estimators(settings.particles)
        fits = [fit(name, build, data, settings) for name, build in contestants.items()]
        reference, seconds = logistic_regression(data)
    tqdm.write("\n" + report.table(fits, reference, seconds) + "\n\n" + notes(settings))

    best = fits[-1]
    vectors = [n for n, kept in zip(data.names, best.kept.tolist(), strict=True) if kept]
    tqdm.write(f"kept by {best.name}: {', '.join(vectors) or 'none'}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    picture, posterior = options.out / "estimators.png", options.out / "posterior.nc"
    report.figure(fits, data, picture)
    report.save_posterior(best, data, posterior)
    tqdm.write(f"figure:    {picture.resolve()}")
    tqdm.write(f"posterior: {posterior.resolve()} ({best.name}; arviz.from_netcdf opens it)")
    tqdm.write(f"{time.perf_counter() - start:.0f} s in all")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m pyro_dsvi.demo", description=__doc__)
    default = Settings()
    p.add_argument("--out", type=Path, default=Path("demo-output"), help="where to write")
    p.add_argument("--steps", type=_at_least(1), help=f"steps of each fit ({default.steps})")
    p.add_argument("--seed", type=int, default=default.seed, help="seed of each fit (%(default)s)")
    p.add_argument(
        "--particles",
        type=_at_least(2),
        default=default.particles,
        help="draws in a step, at least 2 (%(default)s)",
    )
    p.add_argument("--quick", action="store_true", help="a few steps, to see that all runs")
    return p


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the command line asks for."""
    settings = Settings(particles=options.particles, seed=options.seed)
    if options.quick:
        settings = replace(settings, steps=40, checks=4, final_particles=64, repeats=20, warm_up=5)
    return settings if options.steps is None else replace(settings, steps=options.steps)


def introduction(data: Data, settings: Settings) -> str:
    """What is about to be done."""
    return (
        f"Relevance vector classification of breast tumours: {len(data.train)} training points, "
        f"{len(data.test)} held out,\n{len(data.names)} weights. Four fits of {settings.steps} "
        f"steps, {settings.particles} particles and minibatches of {settings.batch_size}.\n"
    )


def notes(settings: Settings) -> str:
    """How the table's columns were measured."""
    return (
        f"bound: on all training data, {settings.final_particles} particles. Gradient variance: "
        f"total over the guide's\nparameters, {settings.repeats} steps on random minibatches with "
        "the parameters held, before the first step\nand after the last. Log score: mean over the "
        "held-out points, probabilities averaged over\n"
        f"{settings.final_particles} draws before the logarithm. Kept: 1 - s²/σ² > {KEPT} (s the "
        "posterior's and σ the prior's\nstandard deviation of a weight). Time: of the steps alone."
    )


def _at_least(fewest: int):
    def whole(text: str) -> int:
        number = int(text)
        if number < fewest:
            raise argparse.ArgumentTypeError(f"must be at least {fewest}, got {number}")
        return number

    return whole


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: for tensors this small, threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
