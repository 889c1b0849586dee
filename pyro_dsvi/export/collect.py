"""Run the programs over all draws, and keep what each of arviz's groups holds."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_dsvi.export.draws import Batch, Source
from pyro_dsvi.export.replay import Replay, replay
from pyro_dsvi.export.sites import Kind, Site, sites_of
from pyro_dsvi.graph.messages import is_silent, log_density
from pyro_dsvi.passes.probe import aside


@dataclass(eq=False)
class Collected:
    """Arrays by group and variable, joined along their draws at the end.

    Attributes:
        parts: what each batch of draws gave, ``[rows, *own plates, *event]``.
    """

    parts: dict[str, dict[str, list[Tensor]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, group: str, name: str, values: Tensor) -> None:
        """Keep a batch's values of one variable."""
        self.parts[group][name].append(values.detach().cpu())

    def joined(self, group: str) -> dict[str, Tensor]:
        """All draws of a group's variables, ``[S, *own plates, *event]``."""
        return {name: torch.cat(parts) for name, parts in self.parts.get(group, {}).items()}


@torch.no_grad()
def posterior(source: Source, size: int, new: "NewData | None") -> Collected:
    """The groups of the posterior: draws, densities, predictions.

    Args:
        source: the draws.
        size: how many are run side by side.
        new: other data to predict, or None.
    """
    kept = Collected()
    observed = source.of_kind(Kind.OBSERVED)
    for batch in source.batches(size):
        rows, nesting = batch.rows, source.nesting
        for name in source.of_kind(Kind.LATENT):
            kept.add("posterior", name, batch.values[name])
        for name in source.of_kind(Kind.DETERMINISTIC):
            kept.add("posterior", name, source.arranged(batch.model, name, rows))
        kept.add("sample_stats", "lp", batch.log_p)
        if batch.log_q is not None:
            kept.add("sample_stats", "log_q", batch.log_q)
        for name in observed:
            msg, site = batch.model.sites[name], source.sites[name]
            if not is_silent(msg):
                density = scale_and_mask(log_density(msg), 1.0, msg["mask"])
                kept.add("log_likelihood", name, site.arrange(density, rows, nesting, 0))
        if observed:
            handler = Replay(batch.values, forget=True)
            drawn = replay(source.model, source.args, source.kwargs, handler, rows, nesting)
            for name in observed:
                kept.add("posterior_predictive", name, source.arranged(drawn, name, rows))
        if new is not None:
            new.predict(batch, nesting, kept)
    return kept


@torch.no_grad()
def prior(source: Source, number: int, size: int) -> Collected:
    """The groups of the prior: the model run as it stands, observations drawn.

    Args:
        source: the model and its arguments.
        number: how many draws.
        size: how many are run side by side.

    Raises:
        Improper: if a prior cannot be drawn from.
    """
    kept = Collected()
    done = 0
    while done < number:
        rows = min(size, number - done) if source.nesting is not None else 1
        handler = Replay({}, forget=True, ancestral=True)
        drawn = replay(source.model, source.args, source.kwargs, handler, rows, source.nesting)
        for name, site in source.sites.items():
            group = "prior_predictive" if site.kind is Kind.OBSERVED else "prior"
            kept.add(group, name, source.arranged(drawn, name, rows))
        done += rows
    return kept


class NewData:
    """Predictions for other data than the observed.

    Latents in no plate keep their draws.  The others belong to elements that may be new: the guide
    draws them for these, given the former; of a chain's samples those are kept whose shape fits,
    and the model draws the rest.

    Args:
        source: the draws.
        guide: the guide; None for a chain's samples.
        args: positional arguments for the other data.
        kwargs: keyword arguments for the other data.
    """

    def __init__(
        self,
        source: Source,
        guide: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.model = source.model
        self.guide = guide
        self.args = args
        self.kwargs = kwargs
        self.observations = frozenset(source.of_kind(Kind.OBSERVED))
        self._latents = frozenset(source.of_kind(Kind.LATENT))
        self.sites: dict[str, Site] = {}

    def predict(self, batch: Batch, nesting: int | None, kept: Collected) -> None:
        """Keep the predictions of a batch of draws."""
        if not self.sites:
            with aside():
                first = {name: value[0] for name, value in batch.values.items()}
                outside = {name: value[0] for name, value in batch.outside.items()}
                single = self._run(first, outside, 1, None)
                self.sites = self._predicted(sites_of(single.sites).values())
        drawn = self._run(batch.values, batch.outside, batch.rows, nesting)
        for name, site in self.sites.items():
            value = drawn.sites[name]["value"]
            arranged = site.arrange(value, batch.rows, nesting, site.event_dim)
            kept.add("predictions", name, arranged)

    def _run(
        self,
        values: Mapping[str, Tensor],
        outside: Mapping[str, Tensor],
        rows: int,
        nesting: int | None,
    ) -> Replay:
        if self.guide is not None:
            handler = Replay(outside, ancestral=True)
            guide = replay(self.guide, self.args, self.kwargs, handler, rows, nesting)
            values = {n: m["value"] for n, m in guide.sites.items() if n not in self.observations}
        handler = Replay(
            values,
            forget=True,
            observations=self.observations,
            ancestral=self.guide is None,
            fitting=self.guide is None,
        )
        return replay(self.model, self.args, self.kwargs, handler, rows, nesting)

    def _predicted(self, sites: Iterable[Site]) -> dict[str, Site]:
        """The observations, and what the model computes besides."""
        return {
            site.name: site
            for site in sites
            if site.name in self.observations or site.kind is Kind.DETERMINISTIC
        }
