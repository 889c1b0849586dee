"""One step: a pair of programs is run, and what came of it is put together under the bound.

What the step has to know beforehand is told by the steps before it (``pair``), and corrected where
the programs are no longer what they were: they are run again then, before anything is put together.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.gains import open_gates
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nested import NestedAssembler
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.remarks import remarks
from pyro_dsvi.graph.surrogate import Assembled, Assembler
from pyro_dsvi.graph.whole import Around
from pyro_dsvi.objective.pair import Pair
from pyro_dsvi.passes.enumeration import PlatesUnknown
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.mixing import refuse_mixing
from pyro_dsvi.passes.particles import Particles, Say


@dataclass(eq=False)
class Step:
    """One step of an objective.

    Args:
        bound: the bound.
        particles: how many there are, and how they are to be run.
        executor: runs the programs.
        pair: what is known of the programs.
        names: sites that are given an estimator by name.
        say: gives a warning once.
    """

    bound: Bound
    particles: Particles
    executor: Executor
    pair: Pair
    names: Collection[str]
    say: Say

    def take(self, learning: bool) -> tuple[Assembled, list[Execution]]:
        """The whole step: all particles are run, and put together under the bound."""
        executions = self.execute(range(self.particles.number))
        self.pair.follow = self._must_follow(executions)
        assembled = self.assemble(executions, learning)
        self.remark(assembled.bundles, executions)
        return assembled, executions

    def execute(
        self, particles: range, begin: Callable[[], None] = lambda: None
    ) -> list[Execution]:
        """Run some of the particles; ``begin`` is called whenever that is begun."""
        executor, pair = self.executor, self.pair
        begin()
        executions = self._run(particles)
        if not self.bound.additive and not executor.follow and not _alike(executions):
            executor.follow = True  # the programs are no longer what they were
            begin()
            executions = self._run(particles)
        if not executions:  # for the first time, a site takes its whole support
            programs = executor.model, executor.guide, executor.args, executor.kwargs
            pair.plates = self.particles.plates(pair.nesting, *programs)
            executor.plates = pair.plates
            begin()
            executions = self._run(particles)
            records = executions[0].guide, executions[0].model
            refuse_mixing(records, pair.nesting, *programs)
        pair.check_names(self.names, executions)
        return executions

    def _run(self, particles: range) -> list[Execution]:
        """Run some of the particles; none if the plates have to be counted before."""
        number, nesting = self.particles.number, self.pair.nesting
        try:
            if nesting is None:
                return [self.executor.one(k, number) for k in particles]
            return [self.executor.side_by_side(particles, number, nesting)]
        except PlatesUnknown:
            return []

    def assemble(
        self, executions: list[Execution], learning: bool, around: Around | None = None
    ) -> Assembled:
        """Put some of the particles together under the bound, the others held."""
        executor, bound = self.executor, self.bound
        if learning:
            for execution in executions:
                executor.answer(execution)
        runs = [execution.run for execution in executions]
        given = executor.args, executor.kwargs, around
        assembler = Assembler(bound, runs, *given)
        if executor.local_particles is not None:
            assembler = NestedAssembler(bound, runs, *given, executor.local_particles)
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

    def remark(self, bundles: Sequence[Bundle], executions: list[Execution]) -> None:
        """Say what a user should know of the way the bound groups the terms."""
        if self.particles.number > 1:
            runs = [execution.run for execution in executions]
            for remark in remarks(self.bound, bundles, runs, Layout.of(runs)):
                self.say(*remark)


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
