"""SVI steps as contenders, each with parameters and optimizer of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI

from benchmarks.interleave import (
    Contender,
    Interval,
    Timing,
    interleave,
    median_of_ratios,
    ratio_of_medians,
)
from benchmarks.report import Report, Settings, Table, shown

Losses = dict[str, Callable[[], ELBO]]


@dataclass(frozen=True)
class Program:
    """A model, a guide and their arguments."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()


class Trainee:
    """One program under one loss, with a param store of its own.

    Args:
        make: builds the program; called with the random generators seeded.
        loss: the loss.
        validation: whether Pyro validates.
        seed: of the program's data and first parameters.
    """

    def __init__(
        self, make: Callable[[], Program], loss: ELBO, *, validation: bool, seed: int
    ) -> None:
        self.loss = loss
        self.validation = validation
        self._store: Any = {"params": {}, "constraints": {}}
        with self.around():
            pyro.set_rng_seed(seed)
            self.program = make()
            self._svi = SVI(
                self.program.model, self.program.guide, pyro.optim.Adam({"lr": 1e-3}), loss
            )

    @contextmanager
    def around(self) -> Iterator[None]:
        """With its own parameters in the store, and validation as it wants it."""
        with pyro.get_param_store().scope(self._store), pyro.validation_enabled(self.validation):
            yield

    def step(self) -> Any:
        """One step of ``SVI`` with Pyro's Adam."""
        return self._svi.step(*self.program.args)

    def gradients(self, seeds: range) -> torch.Tensor:
        """The gradient of every parameter at the present ones, a row for each seed."""
        rows = []
        with self.around():
            for seed in seeds:
                pyro.set_rng_seed(seed)
                with pyro.poutine.trace(param_only=True) as seen:
                    self.loss.loss_and_grads(
                        self.program.model, self.program.guide, *self.program.args
                    )
                names = sorted(n for n, s in seen.trace.nodes.items() if s["type"] == "param")
                parameters = [seen.trace.nodes[n]["value"].unconstrained() for n in names]
                rows.append(torch.cat([p.grad.flatten() for p in parameters]))
                for parameter in parameters:
                    parameter.grad = None
        return torch.stack(rows)


def time_losses(
    report: Report,
    settings: Settings,
    workload: str,
    make: Callable[[], Program],
    losses: Losses,
    *,
    validation: bool,
    rounds: int,
    against: str,
    every: Mapping[str, int] | None = None,
) -> dict[str, tuple[Timing, Interval]]:
    """Time one program under each loss in turn, and add what was found to the report.

    Args:
        report: where to add the table and the data.
        settings: how to run.
        workload: the program in words.
        make: builds the program.
        losses: the contenders.
        validation: whether Pyro validates.
        rounds: blocks of each contender.
        against: the contender that the others are divided by.
        every: contenders that take part in every so many rounds only.

    Returns:
        By contender, its timing and the ratio of its CPU time to the other's.
    """
    contenders = []
    for name, loss in losses.items():
        trainee = Trainee(make, loss(), validation=validation, seed=settings.seed)
        often = (every or {}).get(name, 1)
        contenders.append(Contender(name, trainee.step, trainee.around, often))
    timings = interleave(contenders, rounds=rounds, seed=settings.seed)
    result, rows = {}, []
    where = f"{workload}, validation {'on' if validation else 'off'}"
    for name, timing in timings.items():
        other = timings[against]
        cpu = ratio_of_medians(timing, other, "cpu", seed=settings.seed)
        paired = median_of_ratios(timing, other, "cpu", seed=settings.seed)
        wall = ratio_of_medians(timing, other, "wall", seed=settings.seed)
        result[name] = (timing, cpu)
        rows.append(
            (
                name,
                *_spread(timing.cpu),
                *_spread(timing.wall),
                shown(cpu),
                shown(paired),
                shown(wall),
            )
        )
        report.data.setdefault(where, {})[name] = {
            "rounds": timing.rounds.tolist(),
            "cpu_seconds_a_step": timing.cpu.tolist(),
            "wall_seconds_a_step": timing.wall.tolist(),
            "steps_in_a_block": timing.steps,
            f"cpu_ratio_to_{against}": vars(cpu),
            f"cpu_ratio_to_{against}_round_by_round": vars(paired),
            f"wall_ratio_to_{against}": vars(wall),
        }
    columns = ("", "CPU ms", "quartiles", "wall ms", "quartiles")
    columns = (*columns, f"CPU ÷ {against}", "the same, round by round", f"wall ÷ {against}")
    report.tables.append(Table(where, columns, rows))
    report.waited = max(report.waited, *(timing.waited for timing in timings.values()))
    return result


def how(settings: Settings, rounds: int) -> str:
    """How the steps were timed, in words."""
    return (
        f"{settings.threads} torch thread{'s' if settings.threads > 1 else ''}, held on as many "
        f"cores; float32; {rounds} rounds, contenders in turn, blocks of a few steps; medians and "
        "quartiles over rounds; ratios of medians with a 95 % bootstrap interval; garbage "
        f"collected between blocks only; Pyro's Adam, K=1; seed {settings.seed}"
    )


def _spread(seconds: Any) -> tuple[str, str]:
    ms = torch.as_tensor(seconds * 1e3)
    low, middle, high = ms.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=ms.dtype)).tolist()
    return f"{middle:.3f}", f"{low:.3f} .. {high:.3f}"
