"""Peak memory and time of a step whose particles are held a chunk at a time.

The VAE 784-400-20 on a batch of 128 images, under IWAE (two rounds of the particles) and under the
ELBO (one).  A peak of memory belongs to a process, so each figure is taken in a fresh one: all that
the process ever held, torch and Pyro with their 300 MiB included.
"""

import time
from collections.abc import Callable
from functools import partial

import pyro
import torch

import pyro_dsvi as dsvi
from benchmarks.apart import apart, resident
from benchmarks.interleave import Interval
from benchmarks.programs.vae import VAE
from benchmarks.report import Lines, Report, Settings, Table, Target

NAME = "chunks"
BOUNDS: dict[str, Callable[..., dsvi.Objective]] = {
    "IWAE": partial(dsvi.Objective, dsvi.bounds.IWAE(), vectorize_particles=True),
    "DReG": partial(dsvi.Objective, dsvi.bounds.IWAE(), frozen=True, vectorize_particles=True),
    "ELBO": partial(dsvi.Objective, dsvi.bounds.Evidence(), vectorize_particles=True),
}
LIMIT = 4096  # MiB, for K=4096


def run(settings: Settings) -> Report:
    """Take one step in a process of its own for each number of particles."""
    report = Report(NAME, "peak memory of a step, VAE 784-400-20, batch 128, as K grows")
    chunk, sizes, whole = (2, (4, 8), 8) if settings.quick else (32, (64, 512, 4096), 64)
    rows, series = [], {}
    take = step if settings.quick else partial(apart, step, threads=settings.threads)
    for name in ("IWAE",) if settings.quick else BOUNDS:
        for held in (None, chunk):
            there = [size for size in sizes if held is not None or size <= whole]
            found = [take(name, size, held, settings.seed) for size in there]
            label = f"{name}, " + ("all at once" if held is None else f"chunk={held}")
            rows += [
                (label, str(size), f"{peak:.0f}", f"{seconds:.2f}")
                for size, (peak, seconds) in zip(there, found, strict=True)
            ]
            series[label] = ([float(n) for n in there], [peak for peak, _ in found])
            report.data[label] = dict(zip(map(str, there), found, strict=True))
            if held is not None:
                what = f"{name}, K={sizes[-1]}, chunk={held}: peak of the whole process, MiB"
                peak = found[-1][0]
                report.targets.append(Target(what, Interval(peak, peak, peak), LIMIT))
    columns = ("", "K", "peak MiB", "CPU s a step")
    report.tables.append(Table("one step, gradient included", columns, rows))
    report.panels.append(Lines("peak MiB of the whole process", "particles", series))
    return report


def step(bound: str, num_particles: int, chunk: int | None, seed: int) -> tuple[float, float]:
    """Peak in MiB and CPU seconds of one step; to be called in a process of its own."""
    torch.manual_seed(seed)
    with pyro.get_param_store().scope():
        program = VAE(seed).in_pyro()
        objective = BOUNDS[bound](num_particles=num_particles, chunk=chunk)
        start = time.process_time()
        objective.loss_and_grads(program.model, program.guide, *program.args)
        seconds = time.process_time() - start
    return resident("VmHWM"), seconds
