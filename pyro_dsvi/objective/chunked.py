r"""A step that holds a chunk of its particles at a time, with the gradient of the whole bound.

The first time round, without gradient, the log weights of all particles are found.  The second time
each chunk makes the same draws again, and is differentiated with the other particles held
(``graph.whole``); its part of the gradient is taken at once, and what it was computed from is let
go.  So the gradient is that of a step which holds all particles, while memory is that of a chunk
and of K numbers for each element of the shared plates.  The price is a second run of the programs.

An additive bound is a plain mean over particles: there is one round, unless particles are one
another's baseline, for which their credits are found first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from pyro_dsvi.compiled.outcome import Outcome, without_hooks
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.surrogate import Assembler
from pyro_dsvi.graph.whole import Changed, Whole
from pyro_dsvi.objective.step import Step
from pyro_dsvi.passes.chunks import Chunks
from pyro_dsvi.passes.execute import Execution
from pyro_dsvi.passes.freeze import leaves_behind

T = TypeVar("T")


def refuse_learning(site: str, estimator: Estimator) -> None:
    """Refuse what is trained by a loss of all particles, which are never there together.

    Raises:
        IncompatibleSite: if the estimator has parameters of its own, or its baseline has.
    """
    learner = estimator.learner
    if learner is None or (learner is estimator.baseline and not list(learner.parameters())):
        return
    raise IncompatibleSite(
        f"site {site!r}: {type(learner).__name__} learns from a loss of all particles at once, of "
        "which chunk= holds some at a time; use dsvi.baselines.LeaveOneOut() or MovingAverage(), "
        "or leave chunk out"
    )


@dataclass(eq=False)
class ChunkedStep:
    """One step, a chunk of particles at a time.

    Args:
        step: the step.
        num_particles: particles of the step.
        size: particles held at once.
    """

    step: Step
    num_particles: int
    size: int
    _last: list[Execution] = field(default_factory=list)

    def evaluate(self) -> Tensor:
        """The bound's estimate in nats."""
        whole = self._twice_if_need_be(self._evaluate)
        self.step.remark(whole.bundles, self._last)
        return whole.value(self.step.bound)

    def differentiate(self) -> Outcome:
        """The loss with its gradient."""
        credited = self.step.pair.may_have_rivals()
        outcome, bundles = self._twice_if_need_be(lambda: self._differentiate(credited))
        self.step.remark(bundles, self._last)
        return outcome

    def _twice_if_need_be(self, attempt: Callable[[], T]) -> T:
        """A program may set itself up in its first run, and then chunks do not fit together."""
        try:
            return attempt()
        except Changed:
            self.step.executor.draw_minibatches_anew()
            return attempt()

    @torch.no_grad()
    def _evaluate(self) -> Whole:
        return self._first(Chunks(self.num_particles, self.size), credited=False)

    def _differentiate(self, credited: bool) -> tuple[Outcome, Sequence[Bundle]]:
        chunks = Chunks(self.num_particles, self.size)
        joint = not self.step.bound.additive
        whole = Whole(self.num_particles)
        if joint:
            with torch.no_grad():
                whole = self._first(chunks, credited=False)
        elif credited:
            whole = self._first(chunks, credited=True)
        twice = joint or credited
        if twice:
            self.step.executor.draw_minibatches_anew()
        gradient = _Sum()
        value = whole.value(self.step.bound)
        rounds = chunks.again() if twice else chunks.once()
        for i, (part, drawing) in enumerate(rounds):
            executions = self.step.execute(part, (lambda: None) if twice else drawing)
            if twice:
                drawing()
            assembled = self.step.assemble(executions, True, whole.around(i))
            gradient.add(-assembled.surrogate, last=part.stop == self.num_particles)
            if not joint:
                value = value + assembled.value.detach()
            self._last = executions
        whole.learn()
        leaves, gradients = gradient.leaves, gradient.gradients
        return Outcome(-value.detach(), leaves, gradients), whole.bundles

    def weigh(self) -> Iterator[tuple[int, list[Bundle], Tensor | None, list[Run]]]:
        """Of each chunk how many particles it has, its log weights, its other terms, its runs."""
        for part, begin in Chunks(self.num_particles, self.size).once():
            runs = [execution.run for execution in self.step.execute(part, begin)]
            yield len(part), *bundles(runs, Layout.of(runs)), runs

    def _first(self, chunks: Chunks, credited: bool) -> Whole:
        """All chunks, for what of them has to be known beforehand."""
        whole = Whole(self.num_particles)
        for part, begin in chunks.once():
            if part.start == 0:
                begin = _both(self.step.executor.draw_minibatches_anew, begin)
            executions = self.step.execute(part, begin)
            runs = [execution.run for execution in executions]
            given = self.step.bound, runs, self.step.executor.args, self.step.executor.kwargs
            if credited:
                whole.add(len(part), [], credits=Assembler(*given).credits())
            elif self.step.bound.additive:
                whole.add(len(part), [], Assembler(*given).evaluate().value)
            else:
                whole.add(len(part), *bundles(runs, Layout.of(runs)))
            self._last = executions
        whole.close()
        return whole


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


class _Sum:
    """A gradient that is added up from several scalars, leaf by leaf.

    Attributes:
        leaves: the leaf tensors that the scalars reach.
    """

    def __init__(self) -> None:
        self.leaves: list[Tensor] = []
        self._totals: dict[int, Tensor | None] = {}

    @property
    def gradients(self) -> list[Tensor | None]:
        """The gradient at each leaf; None at one that has none."""
        return [self._totals[id(leaf)] for leaf in self.leaves]

    def add(self, scalar: Tensor, *, last: bool) -> None:
        """Add a scalar's gradient.  What the last one was computed from is freed as it goes."""
        if not scalar.requires_grad:
            return
        found = list(leaves_behind([scalar]).values())
        with without_hooks(found):
            # Programs may use what was computed outside of them, which the next chunk needs again.
            parts = torch.autograd.grad(scalar, found, retain_graph=not last, allow_unused=True)
        for leaf, part in zip(found, parts, strict=True):
            if id(leaf) not in self._totals:
                self.leaves.append(leaf)
                self._totals[id(leaf)] = None
            before = self._totals[id(leaf)]
            if part is not None:
                self._totals[id(leaf)] = part if before is None else before + part
