"""Where draws of the latents come from: a guide, or the samples of a chain.

Either gives them in batches, as many side by side as asked for, with the model's run at them.  What
a run for many draws computes is compared with runs for one of them; a program that does not
broadcast is run for one draw at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch
from pyro_dsvi.estimators import ScoreFunction
from pyro_dsvi.export.replay import Replay, replay
from pyro_dsvi.export.sites import Kind, Site, difference, sites_of
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.messages import log_density
from pyro_dsvi.graph.nodes import Cost, Run
from pyro_dsvi.passes.enumeration import PlatesUnknown
from pyro_dsvi.passes.execute import Executor
from pyro_dsvi.passes.particles import Particles
from pyro_dsvi.passes.probe import aside, run_at
from pyro_dsvi.passes.record import Record
from pyro_dsvi.strategy import Choice, is_marked

Program = Callable[..., Any]
_DRAWN = Choice(ScoreFunction(), "drawn to be exported")


@dataclass(eq=False)
class Batch:
    """Some draws of the latents, and the model's run at them.

    Attributes:
        rows: how many.
        values: every draw of the guide that the model has too, ``[rows, *own plates, *event]``.
        outside: those draws of the guide that are made in no plate, its auxiliary ones among them.
        model: record of the model's run.
        log_p: log joint density in nats, as the programs scale and mask it, ``[rows]``.
        log_q: log density of the guide, likewise; None for a chain's samples.
    """

    rows: int
    values: dict[str, Tensor]
    outside: dict[str, Tensor]
    model: Record
    log_p: Tensor
    log_q: Tensor | None


class Source(ABC):
    """A model, its arguments, and something that draws its latents.

    Args:
        model: the model.
        args: positional arguments of the programs.
        kwargs: keyword arguments of the programs.

    Attributes:
        sites: the model's sites, as one run for one draw shows them.
        nesting: plate dimensions of programs that are run for many draws side by side; None if they
            are run for one draw at a time.
        chains: how many chains the draws are in.
        number: how many draws there are, over all chains.
        data: the observed values, ``[*own plates, *event]``.
    """

    sites: dict[str, Site]
    nesting: int | None
    number: int
    data: dict[str, Tensor]
    chains: int = 1

    def __init__(self, model: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.model = model
        self.args = args
        self.kwargs = kwargs

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All draws, at most so many at once."""

    def of_kind(self, kind: Kind) -> list[str]:
        """Names of the sites of a kind, in the model's order."""
        return [name for name, site in self.sites.items() if site.kind is kind]

    def arranged(self, record: Record, name: str, rows: int) -> Tensor:
        """The value of a site, ``[rows, *own plates, *event]``."""
        site = self.sites[name]
        value = record.sites[name]["value"]
        return site.arrange(value, rows, self.nesting, site.event_dim)

    def _read(self, record: Record) -> None:
        """Take in the sites and the data from a run for one draw."""
        self.sites = sites_of(record.sites)
        self.data = {
            name: site.arrange(record.sites[name]["value"], 1, None, site.event_dim)[0]
            for name, site in self.sites.items()
            if site.kind is Kind.OBSERVED
        }

    def _settle(self, batch: Batch) -> None:
        """Run the model one by one from now on, if side by side it computes something else."""
        if self.nesting is None:
            return
        for k in {0, batch.rows - 1}:
            values = {name: value[k] for name, value in batch.values.items()}
            single = replay(self.model, self.args, self.kwargs, Replay(values))
            if self._differs(batch, single, k):
                self.nesting = None
                return

    def _differs(self, batch: Batch, single: Record, k: int) -> bool:
        for name, site in self.sites.items():
            many, one = batch.model.sites.get(name), single.sites.get(name)
            if many is None or one is None:
                return True
            event_dim = 0
            if site.kind is Kind.DETERMINISTIC:
                x, y, event_dim = many["value"], one["value"], site.event_dim
            else:
                x, y = log_density(many), log_density(one)
            try:
                ours = site.arrange(x, batch.rows, self.nesting, event_dim)[k]
                theirs = site.arrange(y, 1, None, event_dim)[0]
            except SiteMismatch:
                return True
            if difference(ours, theirs):
                return True
        return False


class GuideDraws(Source):
    """Draws of a guide.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        number: how many draws.

    Raises:
        IncompatibleSite: if a plate holds a minibatch, or a latent is left to enumeration.
    """

    def __init__(
        self, model: Program, guide: Program, args: tuple, kwargs: Mapping[str, Any], number: int
    ) -> None:
        super().__init__(model, args, kwargs)
        self.guide = guide
        self.number = number
        with aside():
            guide_run, model_run = run_at(model, guide, args, kwargs, {})
        drawn = {name for name, msg in guide_run.sites.items() if not msg["is_observed"]}
        for name, msg in model_run.sites.items():
            if not msg["is_observed"] and name not in drawn and is_marked(msg["infer"]):
                raise enumerated(name, "the guide")
        sites_of(guide_run.sites)  # refuses minibatches
        self._read(model_run)
        self.nesting = Particles(number, None, float("inf")).nesting(
            model, guide, args, kwargs, lambda *_: None
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All draws, at most so many at once."""
        done = 0
        while done < self.number:
            batch = self._draw(min(size, self.number - done))
            if done == 0:
                nesting = self.nesting
                self._settle(batch)
                if self.nesting != nesting:
                    continue
            done += batch.rows
            yield batch

    def _draw(self, rows: int) -> Batch:
        executor = Executor(
            self.model, self.guide, self.args, self.kwargs, lambda *_: _DRAWN, follow=False
        )
        try:
            if self.nesting is None:
                rows, execution = 1, executor.one()
            else:
                execution = executor.side_by_side(range(rows), rows, self.nesting)
        except PlatesUnknown:  # a site that was not there in the first run
            raise enumerated("of the model", "the guide") from None
        record, run = execution.model, execution.run
        values = {name: self.arranged(record, name, rows) for name in self.of_kind(Kind.LATENT)}
        outside = {
            name: msg["value"].reshape(rows, *msg["fn"].event_shape)
            for name, msg in execution.guide.sites.items()
            if name in execution.guide.choices and not run.plates_of(msg) and not _iterated(msg)
        }
        log_p = _total([c for c in run.costs if not c.of_guide], run)
        log_q = _total([c for c in run.costs if c.of_guide], run)
        return Batch(rows, values, outside, record, log_p, log_q)


class ChainDraws(Source):
    """Samples of Markov chains.

    Args:
        model: the model.
        samples: values by site, ``[chains, draws, *site]``.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.

    Raises:
        IncompatibleSite: if a plate holds a minibatch, or a latent was left to enumeration.
        InvalidArgument: if samples are missing, or disagree in number.
    """

    def __init__(
        self,
        model: Program,
        samples: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__(model, args, kwargs)
        shapes = {tuple(value.shape[:2]) for value in samples.values()}
        if len(shapes) != 1:
            raise InvalidArgument(
                f"samples: all sites need the same number of chains and draws, got {sorted(shapes)}"
            )
        ((self.chains, draws),) = shapes
        self.number = self.chains * draws
        flat = {
            name: value.reshape(self.number, *value.shape[2:]) for name, value in samples.items()
        }
        with aside():
            first = replay(
                model, args, kwargs, Replay({n: v[0] for n, v in flat.items()}, ancestral=True)
            )
        self._read(first)
        for name in self.of_kind(Kind.LATENT):
            if name not in flat and is_marked(first.sites[name]["infer"]):
                raise enumerated(name, "the samples")
            if name not in flat:
                raise InvalidArgument(f"samples: the model's site {name!r} is missing")
        self.values = {
            name: value.reshape(self.number, *_own_shape(self.sites[name], value))
            for name, value in flat.items()
            if name in self.sites and self.sites[name].kind is Kind.LATENT
        }
        frames = (dim for site in self.sites.values() for _, dim, _ in site.plates)
        self.nesting = max((-dim for dim in frames), default=0) if self.number > 1 else None

    def batches(self, size: int) -> Iterator[Batch]:
        """All draws, at most so many at once."""
        done = 0
        while done < self.number:
            rows = min(size, self.number - done) if self.nesting is not None else 1
            try:
                batch = self._at(done, rows)
            except Exception:
                if self.nesting is None or done:
                    raise
                self.nesting = None  # written for one draw at a time
                continue
            if done == 0:
                self._settle(batch)
                if self.nesting is None and rows > 1:
                    continue
            done += rows
            yield batch

    def _at(self, start: int, rows: int) -> Batch:
        values = {name: value[start : start + rows] for name, value in self.values.items()}
        handler = Replay(values)
        record = replay(self.model, self.args, self.kwargs, handler, rows, self.nesting)
        run = Run(rows, self.nesting)
        run.read_model(record.sites, {})
        outside = {name: values[name] for name in values if not self.sites[name].plates}
        return Batch(rows, values, outside, record, _total(run.costs, run), None)


def enumerated(name: str, where: str) -> IncompatibleSite:
    """The error for a latent that is summed out, and of which there are no draws."""
    return IncompatibleSite(
        f"site {name!r}: it is marked for enumeration, and {where} have no draws of it; exported, "
        "it would be a draw of the prior; draw it by pyro.infer.infer_discrete, or in a guide"
    )


def _total(costs: list[Cost], run: Run) -> Tensor:
    """The sum of a run's terms, draw by draw: ``[rows]``."""
    if not costs:
        return torch.zeros(run.rows)
    layout = Layout.of([run])
    terms = [layout.arrange(cost.log_density, run.rows).reshape(run.rows, -1) for cost in costs]
    return torch.stack([term.to(torch.float64).sum(1) for term in terms]).sum(0)


def _iterated(msg: Any) -> bool:
    return any(frame.dim is None for frame in msg["cond_indep_stack"])


def _own_shape(site: Site, value: Tensor) -> tuple[int, ...]:
    """Shape of a site's value without axes of plates that it is not in."""
    event = value.shape[value.dim() - site.event_dim :]
    return (*(size for _, _, size in site.plates), *event)
