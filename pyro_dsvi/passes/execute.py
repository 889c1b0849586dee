"""Run guide and model once, for one particle or for all of them side by side."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dsvi.errors import SiteMismatch
from pyro_dsvi.graph.closed_form import use_closed_forms
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.nodes import PARTICLES, Run
from pyro_dsvi.passes.freeze import (
    Freeze,
    Gate,
    frozen_density,
    not_differentiated,
    parameters_of,
    refuse_live,
)
from pyro_dsvi.passes.sample import Choose, Sample
from pyro_dsvi.passes.score import Score


@dataclass(eq=False)
class Execution:
    """Guide and model, once through, and what came of it.

    Attributes:
        guide: record of the guide's run.
        model: record of the model's run at the guide's values.
        influence: what followed both, or None.
        run: the latents and costs.
        gates: the gates on the latents' values, by site (frozen densities only).
    """

    guide: Sample
    model: Score
    influence: Influence | None
    run: Run
    gates: dict[str, Gate] = field(default_factory=dict)


@dataclass(eq=False)
class Executor:
    """Runs a pair of programs.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        choose: gives each latent its estimator.
        additive: whether the bound is additive.
        frozen: whether the guide's densities are frozen.
        analytic_kl: whether closed forms stand in for sampled densities where they are exact.
        follow: whether to follow influence at all.
        follow_all: whether to follow every latent, or only those whose draw must answer.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    choose: Choose
    additive: bool = True
    frozen: bool = False
    analytic_kl: bool = False
    follow: bool = True
    follow_all: bool = False

    def __post_init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._subsamples: dict[str, Any] = {}

    def side_by_side(self, num_particles: int, nesting: int) -> Execution:
        """All particles in one run, in a plate to the left of ``nesting`` plate dimensions."""
        return self._execute(num_particles, nesting, 0, num_particles)

    def one(self, particle: int = 0, num_particles: int = 1) -> Execution:
        """One particle of several; the next one sees the same minibatch."""
        return self._execute(1, None, particle, num_particles)

    def _execute(
        self, rows: int, nesting: int | None, particle: int, num_particles: int
    ) -> Execution:
        influence = Influence(self._bits) if self.follow else None
        plate: Any = nullcontext()
        if nesting is not None:
            plate = pyro.plate(PARTICLES, rows, dim=-1 - nesting)
        following = influence if influence is not None else nullcontext()

        guide = Sample(
            self.choose,
            influence,
            follow_all=self.follow_all,
            subsamples=self._subsamples,
            particle=particle,
            num_particles=num_particles,
            additive=self.additive,
            frozen=self.frozen,
        )
        with following, guide, plate:
            self.guide(*self.args, **self.kwargs)
        guide.choices = {n: c for n, c in guide.choices.items() if n in guide.sites}
        if isinstance(poutine.unwrap(self.guide), poutine.messenger.Messenger):
            # such a guide runs a model of its own; only its draws are the guide's
            guide.sites = {name: guide.sites[name] for name in guide.choices}
        self._subsamples.update(guide.subsamples)

        gates = self._gates(guide, influence)
        drawn = guide.sites
        if gates:
            drawn = {n: _with_value(msg, gates) for n, msg in drawn.items()}
        model = Score(drawn, self._subsamples, influence)
        with following, model, plate:
            self.model(*self.args, **self.kwargs)
        self._subsamples.update(model.subsamples)
        _refuse_strangers(guide, model)

        frozen = self._freeze(guide, drawn, plate) if self.frozen else None
        estimators = {name: choice.estimator for name, choice in guide.choices.items()}
        run = Run(rows, nesting)
        run.read_guide(
            guide.sites,
            guide.reach,
            estimators,
            self._bits,
            additive=self.additive,
            frozen=frozen,
        )
        run.read_model(model.sites, model.reach)
        if self.analytic_kl:
            use_closed_forms(run, guide.reach, model.reach_of_law)
        return Execution(guide, model, influence, run, gates)

    def _gates(self, guide: Sample, influence: Influence | None) -> dict[str, Gate]:
        """A gate on each latent, where the guide's densities are frozen.

        A bound that asks for no gain still needs the gated values: a flow remembers the very tensor
        that it made, and what led to it, and would bring the live parameters back.
        """
        if not self.frozen or not torch.is_grad_enabled():
            return {}
        gates = {name: Gate(guide.sites[name]["value"]) for name in guide.choices}
        if influence is not None:
            for name, gate in gates.items():
                influence.same(gate.value, guide.sites[name]["value"])
        return gates

    def _freeze(self, guide: Sample, drawn: dict[str, Any], plate: Any) -> dict[str, Tensor] | None:
        """Log densities of the guide's sites with the parameters not differentiated."""
        if not torch.is_grad_enabled():
            return None
        frozen = Freeze(drawn, guide.subsamples)
        # A parameter may be a distribution's own tensor, so the densities belong in here as well.
        with not_differentiated(parameters_of(guide, self.guide)):
            with frozen, plate:
                self.guide(*self.args, **self.kwargs)
            densities = {name: frozen_density(msg) for name, msg in frozen.sites.items()}
        refuse_live(densities, [drawn[name]["value"] for name in guide.choices])
        return densities


def _with_value(msg: Any, gates: Mapping[str, Gate]) -> Any:
    gate = gates.get(msg["name"])
    return msg if gate is None else {**msg, "value": gate.value}


def _refuse_strangers(guide: Sample, model: Score) -> None:
    for name in guide.choices:
        if guide.sites[name]["infer"].get("is_auxiliary"):
            continue
        if name not in model.sites:
            raise SiteMismatch(
                f"site {name!r}: the guide samples it, but the model does not; sample it in the "
                "model, or mark it infer={'is_auxiliary': True} in the guide"
            )
        if model.sites[name]["is_observed"]:
            raise SiteMismatch(
                f"site {name!r}: the guide samples it, but the model observes it; "
                "remove it from the guide"
            )
