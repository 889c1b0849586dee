"""One step from a pair of Pyro programs to a surrogate: bound x estimator per site."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dsvi.baselines import Keeper
from pyro_dsvi.bounds import Bound
from pyro_dsvi.chunked import ChunkedStep, check_chunk, refuse_learning
from pyro_dsvi.compiled import Compilation, CompiledGradients, Outcome
from pyro_dsvi.errors import (
    BiasedEstimatorWarning,
    DSVIWarning,
    InvalidArgument,
    SiteMismatch,
)
from pyro_dsvi.estimators import Bias, Estimator
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.gains import open_gates
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nested import NestedAssembler, check_local_particles, refuse_asking
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.preexisting import know
from pyro_dsvi.graph.remarks import remarks
from pyro_dsvi.graph.surrogate import Assembled, Assembler
from pyro_dsvi.graph.whole import Around
from pyro_dsvi.passes.announce import announce
from pyro_dsvi.passes.enumeration import PlatesUnknown
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.mixing import refuse_mixing
from pyro_dsvi.passes.particles import Particles
from pyro_dsvi.passes.probe import nesting_of
from pyro_dsvi.strategy import Choice, Default, Everywhere, Strategy, per_site, table

Program = Callable[..., Any]


class Objective(ELBO, torch.nn.Module):
    """A bound on the log evidence, and an estimator of its gradient at every latent site.

    It is a ``pyro.infer.ELBO``: it serves as ``loss`` in ``pyro.infer.SVI``, and
    ``objective(model, guide)`` is a module that a torch optimizer trains.  It is a
    ``torch.nn.Module`` as well: the state of its baselines is in ``state_dict()``, and moves
    with ``to``.

    Args:
        bound: the bound.
        num_particles: draws of the guide in a step.
        local_particles: K particles of each latent inside a plate for every draw of the latents
            outside of all plates, of which there are then ``num_particles``: the mean over these of
            their ELBO, in which each plate element has its K-sample bound.  It stays a bound, and
            one that minibatches estimate without bias, whatever lies outside the plate; what is
            computed inside plates costs ``num_particles * local_particles`` evaluations, and what
            is outside too, since the programs are run for all side by side (or in a loop).  None:
            all latents have ``num_particles`` draws, under one joint bound.
        chunk: particles held in memory at once; None: all.  The gradient stays that of the whole
            bound, for the same draws the same, at the price of a second run of the programs.  It
            is taken chunk by chunk in ``differentiable_loss`` too, whose ``backward`` hands on
            what is known already.  Not with ``compiled``, nor with what learns from a loss of its
            own beside the programs.
        vectorize_particles: whether the particles are run side by side in a plate of their own, to
            the left of all others, or in a loop.  None: side by side where one checked pass shows
            that the programs broadcast, else a loop, which is said once.
        max_plate_nesting: plate dimensions of the programs; found by running them if infinite.
        estimators: estimators of latent sites, by name.  A site's own
            ``infer={"estimator": ...}`` comes first; other sites get the default: pathwise where
            the distribution has ``rsample``, else the score function with leave-one-out.
        frozen: leave the guide's densities undifferentiated in their parameters (sticking the
            landing, double reparameterisation), at the price of a second run of the guide.
        analytic_kl: put closed forms in the place of sampled log densities where they are exact;
            additive bounds only.
        compiled: whether loss and gradients are recorded once as a graph, compiled and replayed
            where that is right; a ``Compilation`` for settings.
        default: what a site gets that nobody spoke for: a function of the guide's distribution and
            the number of particles.

    Raises:
        InvalidArgument: if an argument cannot work.

    References:
        :cite:p:`schulman2015scg`, :cite:p:`titsias2014dsvi`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Bernoulli(logits=pyro.param("eta", torch.tensor(0.0))))
        >>> objective = dsvi.Objective(dsvi.bounds.Evidence(), num_particles=8)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
        >>> loss = svi.step()
    """

    min_particles: ClassVar[int] = 1

    def __init__(
        self,
        bound: Bound,
        *,
        num_particles: int = 1,
        local_particles: int | None = None,
        chunk: int | None = None,
        vectorize_particles: bool | None = None,
        max_plate_nesting: float = math.inf,
        estimators: Mapping[str, Estimator] | None = None,
        frozen: bool = False,
        analytic_kl: bool = False,
        compiled: bool | Compilation = False,
        default: Default = per_site,
    ) -> None:
        torch.nn.Module.__init__(self)
        self._check_arguments(bound, num_particles, frozen, analytic_kl, compiled)
        self._check_number(bound, num_particles, local_particles)
        check_chunk(type(self).__name__, chunk, compiled)
        check_local_particles(type(self).__name__, local_particles, bound, chunk)
        ELBO.__init__(self, num_particles=num_particles)
        self.bound = bound
        self.chunk = None if chunk is None or chunk >= num_particles else int(chunk)
        self.local_particles = local_particles
        self.rows = num_particles * (local_particles or 1)
        self.vectorize_particles = vectorize_particles
        self.max_plate_nesting = max_plate_nesting
        self.frozen = frozen
        self.analytic_kl = analytic_kl
        self.strategy = Strategy(
            default,
            dict(estimators or {}),
            max(num_particles, local_particles or 1),
            frozen,
            bound.additive,
            bound.guide,
        )
        self.compilation = Compilation() if compiled is True else compiled or None
        self.baselines = Keeper()
        for name, estimator in self.strategy.by_name.items():
            self.baselines.keep(name, estimator.learner)
        if isinstance(default, Everywhere):
            self.baselines.keep("every site", default.estimator.learner)
        self._known: tuple[Program, Program, int | None] | None = None
        self._plates: int | None = None
        self._choices: dict[str, tuple[Any, Choice]] = {}
        self._follow = True
        self._names_checked = False
        self._said: set[str] = set()
        self._compiled: CompiledGradients | None = None

    def _check_arguments(self, bound, num_particles, frozen, analytic_kl, compiled) -> None:
        name = type(self).__name__
        if not isinstance(bound, Bound):
            raise InvalidArgument(
                f"{name}: expected a bound, got {bound!r}; e.g. dsvi.bounds.Evidence()"
            )
        fewest = max(self.min_particles, bound.min_particles)
        whole = isinstance(num_particles, Integral) and not isinstance(num_particles, bool)
        if not whole or num_particles < fewest:
            raise InvalidArgument(
                f"{name}: num_particles must be a whole number of at least {fewest}, "
                f"got {num_particles!r}"
            )
        if not isinstance(frozen, bool):
            raise InvalidArgument(
                f"{name}: frozen must be True or False, got {frozen!r}; "
                "a mix of frozen and live sites is biased"
            )
        if analytic_kl and not bound.additive:
            raise InvalidArgument(
                f"{name}: analytic_kl needs an additive bound, got {type(bound).__name__}; "
                "use dsvi.bounds.Evidence()"
            )
        if not isinstance(compiled, (bool, Compilation)):
            raise InvalidArgument(
                f"{name}: compiled must be True, False or a dsvi.Compilation, got {compiled!r}"
            )

    def _check_number(self, bound, num_particles, local_particles) -> None:
        """A bound may be made for one number of the particles that stand under it."""
        local = local_particles is not None
        given, word = (local_particles, "local_") if local else (num_particles, "num_")
        if bound.num_particles not in (None, given):
            raise InvalidArgument(
                f"{type(self).__name__}: {bound!r} is made for {bound.num_particles} particles, "
                f"got {word}particles={given}; pass {word}particles={bound.num_particles}"
            )

    # -- the interface of pyro.infer.ELBO ------------------------------------------------------

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimate of the negative bound, in nats; nothing is learnt from it."""
        if self.chunk is not None:
            return _negative(self._evaluate_in_chunks(model, guide, args, kwargs))
        assembled, _ = self._step(model, guide, args, kwargs, learning=False)
        return _negative(assembled.value)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative bound in nats, a scalar tensor whose gradient is the estimator's.

        The loss of trained baselines is part of its gradient, not of its value.
        """
        outcome = self._replay(model, guide, args, kwargs)
        if outcome is not None:
            return outcome.differentiable()
        assembled, _ = self._step(model, guide, args, kwargs)
        surrogate = assembled.surrogate
        return -assembled.value.detach() - (surrogate - surrogate.detach())

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimate of the negative bound in nats; adds its gradient to the parameters'."""
        outcome = self._replay(model, guide, args, kwargs)
        if outcome is not None:
            outcome.accumulate()
            return _negative(-outcome.loss)
        assembled, _ = self._step(model, guide, args, kwargs)
        if assembled.surrogate.requires_grad:
            (-assembled.surrogate).backward()
        return _negative(assembled.value)

    def assemble(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Assembled:
        """The bound's estimate and the surrogate that carries its gradient."""
        if self.chunk is not None:
            raise InvalidArgument(
                f"{type(self).__name__}: chunk={self.chunk}: there is no surrogate of all "
                "particles at once, which a recorded step needs; leave chunk out"
            )
        return self._step(model, guide, args, kwargs)[0]

    def _replay(self, model, guide, args, kwargs) -> Outcome | None:
        """The step in chunks or by replay, or None where it has to be an ordinary one."""
        if self.chunk is not None:
            return self._step_in_chunks(model, guide, args, kwargs)
        if self.compilation is None:
            return None
        if self._compiled is None:
            self._compiled = CompiledGradients(self.assemble, self.compilation, self._say_once)
        return self._compiled.step(model, guide, args, kwargs)

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError("dsvi objectives read the programs by passes of their own")

    def describe(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> dict[str, Choice]:
        """Print which estimator each latent site gets, why, and whether it is unbiased.

        Returns:
            The choice for each site, by name.
        """
        executor = self._executor(model, guide, args, kwargs, learning=False)
        nesting = self._nesting(model, guide, args, kwargs)
        particles = range(self.chunk or self.rows)
        executions = self._execute(executor, nesting, particles)
        choices = {n: c for execution in executions for n, c in execution.guide.choices.items()}
        densities = "frozen" if self.frozen else "live"
        particles = f"{self.num_particles}"
        if self.local_particles is not None:
            particles += f" with {self.local_particles} local ones each"
        head = f"{self.bound!r}, particles: {particles}, guide's densities: {densities}"
        print(f"{head}\n{table(choices)}")
        return choices

    # -- one step ------------------------------------------------------------------------------

    def _step(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        learning: bool = True,
    ) -> tuple[Assembled, list[Execution]]:
        nesting = self._nesting(model, guide, args, kwargs)
        learning = learning and torch.is_grad_enabled()
        executor = self._executor(model, guide, args, kwargs, learning)
        executions = self._execute(executor, nesting, range(self.rows))
        self._follow = self._must_follow(executions)
        assembled = self._assemble(executor, executions, learning)
        if learning:
            announce(self.baselines)
        self._remark(assembled.bundles, executions)
        return assembled, executions

    def _step_in_chunks(self, model, guide, args, kwargs) -> Outcome:
        """A step of which a chunk of particles is held at a time."""
        if not torch.is_grad_enabled():
            return Outcome(-self._evaluate_in_chunks(model, guide, args, kwargs))
        step = self._chunked(model, guide, args, kwargs, learning=True)
        outcome, bundles = step.differentiate(not self._choices or self._has_rivals())
        announce(self.baselines)
        self._remark(bundles, step.last)
        return outcome

    def _evaluate_in_chunks(self, model, guide, args, kwargs) -> Tensor:
        step = self._chunked(model, guide, args, kwargs, learning=False)
        value, bundles = step.evaluate()
        self._remark(bundles, step.last)
        return value

    def weigh(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[int, list[Bundle], Tensor | None, list[Run]]]:
        """The particles' log weights, chunk by chunk, grouped as the bound groups them.

        Yields:
            How many particles there are in the chunk; the terms that stand under one bound; the
            sum of the terms that no latent reaches, in nats; and the runs themselves.
        """
        return self._chunked(model, guide, args, kwargs, learning=False).weigh()

    def _chunked(self, model, guide, args, kwargs, learning: bool) -> ChunkedStep:
        nesting = self._nesting(model, guide, args, kwargs)
        executor = self._executor(model, guide, args, kwargs, learning)
        return ChunkedStep(
            self.bound,
            self.num_particles,
            self.chunk or self.num_particles,
            executor,
            lambda part, begin: self._execute(executor, nesting, part, begin),
            lambda executions, around: self._assemble(executor, executions, True, around),
        )

    def _has_rivals(self) -> bool:
        """Whether particles are one another's baseline at some site."""
        baselines = [choice.estimator.baseline for _, choice in self._choices.values()]
        return any(b is not None and b.min_particles > 1 for b in baselines)

    def _executor(self, model, guide, args, kwargs, learning: bool) -> Executor:
        joint = not self.bound.additive
        follow = (joint or learning) and (self._follow or self.local_particles is not None)
        return Executor(
            model,
            guide,
            args,
            kwargs,
            self._choose,
            additive=self.bound.additive,
            frozen=self.frozen,
            gated=self.bound.guide is not self.bound and isinstance(self.bound.guide, Bound),
            analytic_kl=self.analytic_kl,
            follow=follow or self.analytic_kl or not self._names_checked,
            follow_all=joint or self.analytic_kl,
            plates=self._plates,
            chunked=self.chunk is not None,
            local_particles=self.local_particles,
        )

    def _execute(
        self,
        executor: Executor,
        nesting: int | None,
        particles: range,
        begin: Callable[[], None] = lambda: None,
    ) -> list[Execution]:
        """Run some of the particles; ``begin`` is called whenever that is begun."""
        begin()
        executions = self._run(executor, nesting, particles)
        if not self.bound.additive and not executor.follow and not _alike(executions):
            executor.follow = True  # the programs are no longer what they were
            begin()
            executions = self._run(executor, nesting, particles)
        if not executions:  # for the first time, a site takes its whole support
            programs = executor.model, executor.guide, executor.args, executor.kwargs
            self._plates = self._particles().plates(nesting, *programs)
            executor.plates = self._plates
            begin()
            executions = self._run(executor, nesting, particles)
            records = executions[0].guide, executions[0].model
            refuse_mixing(records, nesting, *programs)
        self._check_names(executions)
        return executions

    def _run(self, executor: Executor, nesting: int | None, particles: range) -> list[Execution]:
        """Run some of the particles; none if the plates have to be counted before."""
        try:
            if nesting is None:
                return [executor.one(k, self.rows) for k in particles]
            return [executor.side_by_side(particles, self.rows, nesting)]
        except PlatesUnknown:
            return []

    def _assemble(
        self,
        executor: Executor,
        executions: list[Execution],
        learning: bool,
        around: Around | None = None,
    ) -> Assembled:
        """Put some of the particles together under the bound, the others held."""
        if learning:
            for execution in executions:
                executor.answer(execution)
        runs = [execution.run for execution in executions]
        bound, given = self.bound, (executor.args, executor.kwargs, around)
        assembler = Assembler(bound, runs, *given)
        if self.local_particles is not None:
            assembler = NestedAssembler(bound, runs, *given, self.local_particles)
            bound = assembler.inner
        if not learning:
            return assembler.evaluate()
        assembled = assembler.assemble()
        gates = [execution.gates for execution in executions]
        if any(gates):
            rows, layout = assembler.rows(), assembler.layout
            open_gates(bound, assembled.bundles, rows, gates, layout)
        return assembled

    def _must_follow(self, executions: list[Execution]) -> bool:
        """Whether the next step has to know what reaches what."""
        if not self.bound.additive:
            return not _alike(executions)
        return _scored([execution.run for execution in executions])

    def _remark(self, bundles: Sequence[Bundle], executions: list[Execution]) -> None:
        if self.rows > 1:
            runs = [execution.run for execution in executions]
            for remark in remarks(self.bound, bundles, runs, Layout.of(runs)):
                self._say_once(*remark)

    def _nesting(self, model, guide, args, kwargs) -> int | None:
        """Plate dimensions if particles go side by side, None if they go one by one."""
        know(args, kwargs, budget=2000)
        if self._known is None or self._known[0] != model or self._known[1] != guide:
            if self.local_particles is not None:
                nesting_of(model, guide, args, kwargs)  # so that parameters are known from draws
            nesting = self._particles().nesting(model, guide, args, kwargs, self._say_once)
            self._plates = None
            self._choices.clear()
            self._names_checked = False
            self._follow = True
            self._known = (model, guide, nesting)
        return self._known[2]

    def _particles(self) -> Particles:
        return Particles(self.rows, self.vectorize_particles, self.max_plate_nesting)

    def _choose(
        self, name: str, q: Any, infer: Mapping[str, Any], local: bool | None = None
    ) -> Choice:
        given = infer.get("estimator")
        kind = (type(innermost(q)), getattr(q, "has_rsample", False))
        marks = infer.get("frozen"), infer.get("enumerate"), infer.get("num_samples")
        key = (*kind, given, *marks, torch.is_grad_enabled())
        known = self._choices.get(name)
        if known is not None and known[0] == key:
            return known[1]
        particles = self.local_particles if local else self.num_particles
        choice = self.strategy.choose(name, q, infer, particles)
        if local is not None:
            refuse_asking(name, choice.estimator)
        if self.chunk is not None:
            refuse_learning(name, choice.estimator)
        if infer.get("enumerate") and not choice.estimator.enumerates:
            self._say_once(
                DSVIWarning,
                f"site {name!r} is marked for enumeration, but is sampled under this objective; "
                "dsvi.estimators.Enumerate() sums over its support, all values side by side",
            )
        if choice.estimator.bias is Bias.BIASED:
            self._say_once(
                BiasedEstimatorWarning,
                f"site {name!r}: {type(choice.estimator).__name__} is biased",
            )
        self.baselines.keep(name, choice.estimator.learner)
        self._choices[name] = (key, choice)
        return choice

    def _check_names(self, executions: list[Execution]) -> None:
        """Refuse an estimator for a site that does not exist, once for a pair of programs."""
        if self._names_checked:
            return
        followed = [e.influence for e in executions if e.influence is not None]
        if not followed or any(influence.escaped for influence in followed):
            return  # a branch that was not taken may hold the site
        known = {name for execution in executions for name in execution.guide.choices}
        unknown = set(self.strategy.by_name) - known
        if unknown:
            raise SiteMismatch(
                f"estimators: the guide has no latent site {sorted(unknown)}; it has "
                f"{sorted(known)}"
            )
        self._names_checked = True

    def _say_once(self, category: type[Warning], message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, category, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_known=None, _plates=None, _choices={}, _follow=True, _compiled=None)
        return state


def _scored(runs: Sequence[Run]) -> bool:
    """Whether some draw has to answer for what it influences."""
    return any(latent.score is not None for run in runs for latent in run.latents.values())


def _alike(executions: Sequence[Execution]) -> bool:
    """Whether all terms stand under one bound of log weights, whatever influences what."""
    runs = [execution.run for execution in executions]
    costs = [cost for run in runs for cost in run.costs]
    latents = [latent for run in runs for latent in run.latents.values()]
    if any(isinstance(cost.scale, Tensor) for cost in costs):
        return False
    if any(latent.estimator.asks or latent.estimator.enumerates for latent in latents):
        return False
    return len({(cost.plates, cost.scale) for cost in costs}) == 1


def _negative(value: Tensor) -> float:
    loss = -value.item()
    if math.isnan(loss):
        warnings.warn("the loss is NaN", RuntimeWarning, stacklevel=3)
    return loss
