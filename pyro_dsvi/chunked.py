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
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.compiled.outcome import Outcome, without_hooks
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.surrogate import Assembled, Assembler
from pyro_dsvi.graph.whole import Around, Changed, Whole
from pyro_dsvi.passes.chunks import Chunks
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.freeze import leaves_behind

T = TypeVar("T")
Execute = Callable[[range, Callable[[], None]], list[Execution]]
Assemble = Callable[[list[Execution], Around], Assembled]


def check_chunk(objective: str, chunk: Any, compiled: Any) -> None:
    """Refuse a number of particles to hold that cannot work.

    Raises:
        InvalidArgument: if it is no whole number, or the step is to be compiled as well.
    """
    if chunk is None:
        return
    if not isinstance(chunk, Integral) or isinstance(chunk, bool) or chunk < 1:
        raise InvalidArgument(
            f"{objective}: chunk must be None or a whole number of at least 1, got {chunk!r}"
        )
    if compiled:
        raise InvalidArgument(
            f"{objective}: chunk={chunk} with compiled={compiled!r}: a recorded step holds all "
            "particles at once; leave one of the two out"
        )


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
        bound: the bound.
        num_particles: particles of the step.
        size: particles held at once.
        executor: runs the programs.
        execute: runs some of the particles; calls its second argument whenever it begins.
        assemble: puts some of the particles together, the others being held.
    """

    bound: Bound
    num_particles: int
    size: int
    executor: Executor
    execute: Execute
    assemble: Assemble
    last: list[Execution] = field(default_factory=list)

    def evaluate(self) -> tuple[Tensor, Sequence[Bundle]]:
        """The bound's estimate in nats, and the terms that stand under one bound."""
        whole = self._twice_if_need_be(self._evaluate)
        return whole.value(self.bound), whole.bundles

    def differentiate(self, credited: bool) -> tuple[Outcome, Sequence[Bundle]]:
        """The loss with its gradient, and the terms that stand under one bound.

        Args:
            credited: whether particles may be one another's baseline.
        """
        return self._twice_if_need_be(lambda: self._differentiate(credited))

    def _twice_if_need_be(self, attempt: Callable[[], T]) -> T:
        """A program may set itself up in its first run, and then chunks do not fit together."""
        try:
            return attempt()
        except Changed:
            self.executor.draw_minibatches_anew()
            return attempt()

    @torch.no_grad()
    def _evaluate(self) -> Whole:
        return self._first(Chunks(self.num_particles, self.size), credited=False)

    def _differentiate(self, credited: bool) -> tuple[Outcome, Sequence[Bundle]]:
        chunks = Chunks(self.num_particles, self.size)
        joint = not self.bound.additive
        whole = Whole(self.num_particles)
        if joint:
            with torch.no_grad():
                whole = self._first(chunks, credited=False)
        elif credited:
            whole = self._first(chunks, credited=True)
        twice = joint or credited
        if twice:
            self.executor.draw_minibatches_anew()
        gradient = _Sum()
        value = whole.value(self.bound)
        rounds = chunks.again() if twice else chunks.once()
        for i, (part, drawing) in enumerate(rounds):
            executions = self.execute(part, (lambda: None) if twice else drawing)
            if twice:
                drawing()
            assembled = self.assemble(executions, whole.around(i))
            gradient.add(-assembled.surrogate, last=part.stop == self.num_particles)
            if not joint:
                value = value + assembled.value.detach()
            self.last = executions
        whole.learn()
        leaves, gradients = gradient.leaves, gradient.gradients
        return Outcome(-value.detach(), leaves, gradients), whole.bundles

    def weigh(self) -> Iterator[tuple[int, list[Bundle], Tensor | None, list[Run]]]:
        """Of each chunk how many particles it has, its log weights, its other terms, its runs."""
        for part, begin in Chunks(self.num_particles, self.size).once():
            runs = [execution.run for execution in self.execute(part, begin)]
            yield len(part), *bundles(runs, Layout.of(runs)), runs

    def _first(self, chunks: Chunks, credited: bool) -> Whole:
        """All chunks, for what of them has to be known beforehand."""
        whole = Whole(self.num_particles)
        for part, begin in chunks.once():
            if part.start == 0:
                begin = _both(self.executor.draw_minibatches_anew, begin)
            executions = self.execute(part, begin)
            runs = [execution.run for execution in executions]
            args, kwargs = self.executor.args, self.executor.kwargs
            if credited:
                whole.add(
                    len(part), [], credits=Assembler(self.bound, runs, args, kwargs).credits()
                )
            elif self.bound.additive:
                total = Assembler(self.bound, runs, args, kwargs).evaluate().value
                whole.add(len(part), [], total)
            else:
                whole.add(len(part), *bundles(runs, Layout.of(runs)))
            self.last = executions
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
