"""Run benchmarks by name, or all of them: ``python -m benchmarks [name ...] [--quick]``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import (
    chunks,
    cone,
    credit,
    discrete,
    growth,
    inequality,
    kingma,
    leave_one_out,
    local,
    noise,
    pathwise,
    quality,
    rvm,
    snr,
    sparse,
    speed,
    vae,
    variance,
)
from benchmarks.figure import draw
from benchmarks.machine import machine
from benchmarks.report import Report, Settings, save, text

BENCHMARKS: dict[str, Callable[[Settings], Report]] = {
    speed.NAME: speed.run,
    growth.NAME: growth.run,
    inequality.NAME: inequality.run,
    quality.NAME: quality.run,
    chunks.NAME: chunks.run,
    cone.NAME: cone.run,
    credit.NAME: credit.run,
    discrete.NAME: discrete.run,
    pathwise.NAME: pathwise.run,
    local.NAME: local.run,
    noise.NAME: noise.run,
    kingma.NAME: kingma.run,
    variance.NAME: variance.run,
    sparse.NAME: sparse.run,
    rvm.NAME: rvm.run,
    snr.NAME: snr.run,
    leave_one_out.NAME: leave_one_out.run,
    vae.NAME: vae.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; the number of targets that were missed (at most 100)."""
    options = _parse(arguments)
    settings = Settings(
        quick=options.quick,
        threads=options.threads,
        seed=options.seed,
        wall_threads=options.wall_threads,
        device=options.device,
        only=tuple(options.only),
        seeds=options.seeds,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    if settings.device == "cuda" and not torch.cuda.is_available():
        print("skipped: --device cuda, but torch sees no CUDA device here")
        return 0
    missed = 0
    for name in options.names or BENCHMARKS:
        before = machine(settings.threads)
        report = BENCHMARKS[name](settings)
        print(text(report, settings))
        paths = [save(report, settings, [before, machine(settings.threads)], options.out)]
        figure = draw(report, options.out)
        if figure is None:
            print("no figure: matplotlib is not installed (pip install 'pyro-dsvi[benchmarks]')")
        else:
            paths.append(figure)
        print("written: " + ", ".join(str(path) for path in paths) + "\n", flush=True)
        missed += sum(not target.met for target in report.targets)
    return 0 if settings.quick else min(missed, 100)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="seconds, to see that it runs; the numbers mean little"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results",
        help="folder of the JSON and the figure (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="by CPU time, each on a core (default: %(default)s)"
    )
    parser.add_argument(
        "--wall-threads",
        type=int,
        default=2,
        help="speed: once more with these, by wall time; 0: not (default: %(default)s)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="workload", help="speed, quality: W1 W2a ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--seeds", type=int, default=0, help="vae: runs from as many seeds; 0: its own number"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
