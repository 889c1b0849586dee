"""Loss and gradients of an objective as one replayed graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.inputs import Inputs
from pyro_dsvi.compiled.lower import Run, Say, lower
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.recording import Recording
from pyro_dsvi.compiled.replayer import Replayer
from pyro_dsvi.graph.surrogate import Assembled
from pyro_dsvi.passes.announce import send


class Gradients:
    """A recording made ready to run: inputs to loss and gradients.

    Attributes:
        updated: nothing, since no optimizer is in it.
        whole: False, since what follows the gradients is not in it.
        state: the tensors that it writes in place.

    Args:
        recording: the recording.
        run: its graph, made ready.
    """

    whole = False
    updated: Sequence[Tensor] = ()

    def __init__(self, recording: Recording, run: Callable[[Inputs], Run]) -> None:
        self._inputs = Inputs(recording.slots, recording.parameters)
        self._run = run(self._inputs)
        self._leaves, self._kept = recording.leaves, recording.kept
        self._parameters = recording.parameters
        self.state: Sequence[Tensor] = recording.written

    def holds(self) -> bool:
        """Whether the tensors it was made for are still in place."""
        return self._inputs.hold()

    def keep(self) -> Callable[[], None]:
        """Nothing is kept but tensors."""
        return lambda: None

    def __call__(self, arguments: Sequence[Tensor]) -> Outcome:
        loss, *gradients = self._run(*self._inputs.given(arguments))
        if not all(self._kept):
            given = iter(gradients)
            gradients = [next(given) if kept else None for kept in self._kept]
        return Outcome(loss, self._leaves, gradients, self._parameters, replayed=True)


class CompiledGradients:
    """Takes an objective's steps by replay where that is right.

    Args:
        assemble: runs model and guide up to the surrogate: ``(model, guide, args, kwargs)``.
        compilation: the settings.
        say: gives a warning once.
    """

    def __init__(
        self, assemble: Callable[..., Assembled], compilation: Compilation, say: Say
    ) -> None:
        self.assemble = assemble
        self.compilation = compilation
        self.say = say
        self.replayer = Replayer(self, compilation, say)

    def step(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Outcome | None:
        """Take a step; None if it has to be an ordinary one, which the caller takes."""
        outcome = self.replayer.step(model, guide, args, kwargs)
        if outcome is not None and outcome.replayed and am_i_wrapped():
            for name, parameter in outcome.parameters.items():
                send(name, parameter)
        return outcome

    def finish(self, outcome: Outcome) -> None:
        """Nothing follows the gradients."""

    def build(self, recording: Recording) -> Gradients:
        """Make a recording ready to run."""

        def run(inputs: Inputs) -> Run:
            return lower(
                recording.graph, inputs.tensors, self.compilation, recording.sites, self.say
            )

        return Gradients(recording, run)
