"""Run guide and model once, for one particle or for all of them side by side."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, SiteMismatch
from pyro_dsvi.graph.closed_form import use_closed_forms
from pyro_dsvi.graph.contraction import sum_out, summed_sites
from pyro_dsvi.graph.expectation import take_expectations
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.nodes import PARTICLES, Answer, Run
from pyro_dsvi.passes.enumeration import Support, taken_whole
from pyro_dsvi.passes.freeze import (
    Freeze,
    Gate,
    frozen_density,
    not_differentiated,
    parameters_of,
    refuse_live,
)
from pyro_dsvi.passes.redraw import Question, Redraw, batches
from pyro_dsvi.passes.sample import Choose, Sample, is_local
from pyro_dsvi.passes.score import Score


@dataclass(eq=False)
class Execution:
    """Guide and model, once through, and what came of it.

    Attributes:
        guide: record of the guide's run.
        model: record of the model's run at the guide's values.
        influence: what followed both, or None.
        run: the latents and costs.
        gates: the gates on the latents' values, by site, where there are any.
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
        gated: whether the model sees draws whose gradient is weighed anew on its way back, which
            frozen densities ask for in any case.
        analytic_kl: whether closed forms stand in for sampled densities where they are exact.
        follow: whether to follow influence at all.
        follow_all: whether to follow every latent, or only those whose draw must answer.
        plates: dimensions that plates take up, that of the particles among them, where sites take
            their whole support to the left of these; None where none has asked for it.
        chunked: whether the step holds a chunk of its particles at a time.
        local_particles: particles of the latents inside plates for each draw of those outside;
            None if all have the same particles.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    choose: Choose
    additive: bool = True
    frozen: bool = False
    gated: bool = False
    analytic_kl: bool = False
    follow: bool = True
    follow_all: bool = False
    plates: int | None = None
    chunked: bool = False
    local_particles: int | None = None

    def __post_init__(self) -> None:
        self._globals: dict[str, Tensor] = {}
        self._bits: dict[str, int] = {}
        self._subsamples: dict[str, Any] = {}

    def side_by_side(self, particles: range, num_particles: int, nesting: int) -> Execution:
        """Particles in one run, in a plate to the left of ``nesting`` plate dimensions."""
        return self._execute(len(particles), nesting, particles.start, num_particles)

    def one(self, particle: int = 0, num_particles: int = 1) -> Execution:
        """One particle of several; the next one sees the same minibatch."""
        return self._execute(1, None, particle, num_particles)

    def draw_minibatches_anew(self) -> None:
        """Forget which minibatches the particles have shared so far."""
        self._subsamples.clear()

    def answer(self, execution: Execution) -> None:
        """Run the programs again at the values that the estimators of a run ask about."""
        latents = list(execution.run.latents.values())
        for latent in latents:
            if not latent.estimator.asks:
                continue
            latent.counterfactual = latent.estimator.counterfactual(latent.q, latent.value.detach())
            if latent.counterfactual is not None and latent.site in execution.run.branches:
                raise IncompatibleSite(
                    f"site {latent.site!r}: it is drawn once for each value of an enumerated site "
                    f"upstream, where {type(latent.estimator).__name__} is not offered; use "
                    "dsvi.estimators.ScoreFunction() here, or draw the site upstream"
                )
        for slopes in (False, True):
            asked = [x for x in latents if x.counterfactual and len(x.counterfactual.values)]
            asking = [x for x in asked if x.counterfactual and x.counterfactual.slopes is slopes]
            if not asking:
                continue
            mode = self._parameters_held(execution) if slopes else torch.no_grad()
            with mode, pyro.validation_enabled(False):  # the first run has been validated
                for batch in batches(asking, execution.run):
                    further = self._again(execution, [question for _, question in batch])
                    for latent, question in batch:
                        latent.answers.append(Answer(further.run, question.rows))

    def _again(self, first: Execution, questions: list[Question]) -> Execution:
        influence = Influence(self._bits)
        nesting = first.run.nesting
        guide = Redraw(
            first.guide,
            influence,
            questions,
            stacked=nesting is not None,
            subsamples=self._subsamples,
        )
        # A score site's own density is a constant under an additive bound, but not in its value.
        additive = self.additive and not questions[0].slopes
        return self._play(guide, influence, questions[-1].rows.stop, nesting, additive=additive)

    def _parameters_held(self, execution: Execution):
        """Slopes in the values alone: what is asked for them must not move the parameters."""
        programs = (execution.guide, self.guide), (execution.model, self.model)
        return not_differentiated([p for pair in programs for p in parameters_of(*pair)])

    def _execute(
        self, rows: int, nesting: int | None, particle: int, num_particles: int
    ) -> Execution:
        influence = Influence(self._bits) if self.follow else None
        if self.local_particles is None or particle % self.local_particles == 0:
            self._globals = {}
        guide = Sample(
            self.choose,
            influence,
            follow_all=self.follow_all,
            subsamples=self._subsamples,
            supports=self.plates is not None,
            particle=particle,
            num_particles=num_particles,
            additive=self.additive,
            frozen=self.frozen,
            chunked=self.chunked,
            local_particles=self.local_particles,
            globals_=self._globals,
        )
        execution = self._play(
            guide,
            influence,
            rows,
            nesting,
            additive=self.additive,
            frozen=self.frozen,
            gated=self.gated or self.frozen,
        )
        if self.local_particles is not None:
            self._globals = {name: guide.sites[name]["value"] for name in self._outside(guide)}
        return execution

    def _outside(self, guide: Sample) -> set[str]:
        """Latents of which a draw has several particles of others inside it."""
        if self.local_particles is None:
            return set()
        return {name for name in guide.choices if not is_local(guide.sites[name])}

    def _play(
        self,
        guide: Sample,
        influence: Influence | None,
        rows: int,
        nesting: int | None,
        *,
        additive: bool,
        frozen: bool = False,
        gated: bool = False,
    ) -> Execution:
        plate: Any = nullcontext()
        if nesting is not None:
            plate = pyro.plate(PARTICLES, rows, dim=-1 - nesting)
        following = influence if influence is not None else nullcontext()

        with following, self.support(), guide, plate, taken_whole(guide):
            self.guide(*self.args, **self.kwargs)
        guide.choices = {n: c for n, c in guide.choices.items() if n in guide.sites}
        if isinstance(poutine.unwrap(self.guide), poutine.messenger.Messenger):
            # such a guide runs a model of its own; only its draws are the guide's
            guide.sites = {name: guide.sites[name] for name in guide.choices}
        self._subsamples.update(guide.subsamples)

        gates = self._gates(guide, influence) if gated else {}
        drawn = guide.sites
        if gates:
            drawn = {n: _with_value(msg, gates) for n, msg in drawn.items()}
        model = Score(drawn, self._subsamples, influence, plates=self.plates)
        with following, model, self.support(drawn), plate, taken_whole(guide, model):
            self.model(*self.args, **self.kwargs)
        self._subsamples.update(model.subsamples)
        _refuse_strangers(guide, model)

        densities = self._freeze(guide, drawn, plate) if frozen else None
        estimators = {name: choice.estimator for name, choice in guide.choices.items()}
        # A closed form may take a density's place; a sum over a support needs all of them.
        defers = self.analytic_kl and self.plates is None
        run = Run(rows, nesting, defers)
        run.read_guide(
            guide.sites,
            guide.reach,
            estimators,
            self._bits,
            additive=additive,
            frozen=densities,
        )
        summed = summed_sites(model.sites, estimators) if self.plates is not None else {}
        run.read_model({n: m for n, m in model.sites.items() if n not in summed}, model.reach)
        sum_out(run, summed, model.reach)
        if self.analytic_kl:
            use_closed_forms(run, guide.reach, model.reach_of_law)
        run.settle()
        take_expectations(run)
        return Execution(guide, model, influence, run, gates)

    def support(self, drawn: Mapping[str, Any] | None = None) -> Any:
        """What gives a site its whole support; in the model, once the guide has drawn."""
        if self.plates is None:
            return nullcontext()
        return Support(self.plates, drawn)

    def _gates(self, guide: Sample, influence: Influence | None) -> dict[str, Gate]:
        """A gate on each latent, for the model and for densities that are frozen.

        A bound that asks for no gain still needs the gated values: a flow remembers the very tensor
        that it made, and what led to it, and would bring the live parameters back.
        """
        if not torch.is_grad_enabled():
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
        held = self._outside(guide)
        seen = {
            n: {**m, "value": m["value"].detach()} if n in held else m for n, m in drawn.items()
        }
        frozen = Freeze(seen, guide.subsamples)
        # A parameter may be a distribution's own tensor, so the densities belong in here as well.
        with not_differentiated(parameters_of(guide, self.guide)):
            with frozen, plate:
                self.guide(*self.args, **self.kwargs)
            densities = {
                name: frozen_density(
                    {**msg, "value": drawn[name]["value"]} if name in held else msg
                )
                for name, msg in frozen.sites.items()
            }
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
