"""One step from a pair of Pyro programs to a surrogate: bound x estimator per site."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_dsvi.baselines import Keeper
from pyro_dsvi.bounds import Bound
from pyro_dsvi.compiled import Compilation, CompiledGradients, Outcome
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.nested import refuse_asking
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.preexisting import know
from pyro_dsvi.graph.surrogate import Assembled
from pyro_dsvi.objective.arguments import check_arguments
from pyro_dsvi.objective.chunked import ChunkedStep, refuse_learning
from pyro_dsvi.objective.pair import Pair, Program, cautions
from pyro_dsvi.objective.step import Step
from pyro_dsvi.passes.announce import announce
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.particles import Particles
from pyro_dsvi.strategy import Choice, Default, Everywhere, Strategy, per_site, table


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
        check_arguments(
            type(self).__name__,
            bound,
            num_particles,
            local_particles,
            chunk,
            fewest=self.min_particles,
            frozen=frozen,
            analytic_kl=analytic_kl,
            compiled=compiled,
        )
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
        for site, estimator in self.strategy.by_name.items():
            self.baselines.keep(site, estimator.learner)
        if isinstance(default, Everywhere):
            self.baselines.keep("every site", default.estimator.learner)
        self._pair = Pair()
        self._said: set[str] = set()
        self._compiled: CompiledGradients | None = None

    # -- the interface of pyro.infer.ELBO ------------------------------------------------------

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimate of the negative bound, in nats; nothing is learnt from it."""
        if self.chunk is not None:
            return _negative(-self._step_in_chunks(model, guide, args, kwargs).loss)
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
        step = self._prepare(model, guide, args, kwargs, learning=False)
        executions = step.execute(range(self.chunk or self.rows))
        choices = {n: c for execution in executions for n, c in execution.guide.choices.items()}
        densities = "frozen" if self.frozen else "live"
        particles = f"{self.num_particles}"
        if self.local_particles is not None:
            particles += f" with {self.local_particles} local ones each"
        head = f"{self.bound!r}, particles: {particles}, guide's densities: {densities}"
        print(f"{head}\n{table(choices)}")
        return choices

    def weigh(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[int, list[Bundle], Tensor | None, list[Run]]]:
        """The particles' log weights, chunk by chunk, grouped as the bound groups them.

        Yields:
            How many particles there are in the chunk; the terms that stand under one bound; the
            sum of the terms that no latent reaches, in nats; and the runs themselves.
        """
        return self._chunked(model, guide, args, kwargs, learning=False).weigh()

    # -- one step ------------------------------------------------------------------------------

    def _step(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        learning: bool = True,
    ) -> tuple[Assembled, list[Execution]]:
        learning = learning and torch.is_grad_enabled()
        step = self._prepare(model, guide, args, kwargs, learning)
        assembled, executions = step.take(learning)
        if learning:
            announce(self.baselines)
        return assembled, executions

    def _step_in_chunks(self, model, guide, args, kwargs) -> Outcome:
        """A step of which a chunk of particles is held at a time."""
        learning = torch.is_grad_enabled()
        step = self._chunked(model, guide, args, kwargs, learning)
        if not learning:
            return Outcome(-step.evaluate())
        outcome = step.differentiate()
        announce(self.baselines)
        return outcome

    def _chunked(self, model, guide, args, kwargs, learning: bool) -> ChunkedStep:
        step = self._prepare(model, guide, args, kwargs, learning)
        return ChunkedStep(step, self.num_particles, self.chunk or self.num_particles)

    def _prepare(self, model, guide, args, kwargs, learning: bool) -> Step:
        """A step over two programs, with what the steps before have shown of them."""
        know(args, kwargs, budget=2000)
        particles = Particles(self.rows, self.vectorize_particles, self.max_plate_nesting)
        nested = self.local_particles is not None
        if not self._pair.consists_of(model, guide):
            given = model, guide, args, kwargs, particles, self._say_once
            self._pair = Pair.meet(*given, nested=nested)
        pair, joint = self._pair, not self.bound.additive
        follow = (joint or learning) and (pair.follow or nested)
        executor = Executor(
            model,
            guide,
            args,
            kwargs,
            self._choose,
            additive=self.bound.additive,
            frozen=self.frozen,
            gated=self.bound.guide is not self.bound and isinstance(self.bound.guide, Bound),
            analytic_kl=self.analytic_kl,
            follow=follow or self.analytic_kl or not pair.names_checked,
            follow_all=joint or self.analytic_kl,
            plates=pair.plates,
            chunked=self.chunk is not None,
            local_particles=self.local_particles,
        )
        return Step(self.bound, particles, executor, pair, self.strategy.by_name, self._say_once)

    def _choose(
        self, name: str, q: Any, infer: Mapping[str, Any], local: bool | None = None
    ) -> Choice:
        def choose() -> Choice:
            particles = self.local_particles if local else self.num_particles
            choice = self.strategy.choose(name, q, infer, particles)
            if local is not None:
                refuse_asking(name, choice.estimator)
            if self.chunk is not None:
                refuse_learning(name, choice.estimator)
            for caution in cautions(name, infer, choice.estimator):
                self._say_once(*caution)
            self.baselines.keep(name, choice.estimator.learner)
            return choice

        return self._pair.choice(name, q, infer, choose)

    def _say_once(self, category: type[Warning], message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, category, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pair": Pair(), "_compiled": None}


def _negative(value: Tensor) -> float:
    loss = -value.item()
    if math.isnan(loss):
        warnings.warn("the loss is NaN", RuntimeWarning, stacklevel=3)
    return loss
