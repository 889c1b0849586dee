"""Stochastic variational inference whose step is one graph, the optimizer's update included."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.infer import SVI
from pyro.infer.util import zero_grads
from torch import Tensor

from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.flat import Flat, flatten
from pyro_dsvi.compiled.gradients import Gradients
from pyro_dsvi.compiled.inputs import Inputs
from pyro_dsvi.compiled.learning import Executable
from pyro_dsvi.compiled.lower import Run, lower
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.randomness import RandomState
from pyro_dsvi.compiled.recording import Recording, plain
from pyro_dsvi.compiled.replayer import Replayer
from pyro_dsvi.compiled.together import update_together
from pyro_dsvi.compiled.verify import disagreement
from pyro_dsvi.compiled.whole_step import WholeStep
from pyro_dsvi.errors import InvalidArgument, NotCompiledWarning
from pyro_dsvi.graph.surrogate import Assembled


@runtime_checkable
class Assembles(Protocol):
    """An objective of ours."""

    compilation: Compilation | None

    def assemble(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Assembled:
        """The bound's estimate and the surrogate that carries its gradient."""
        ...


class CompiledSVI(SVI):
    """``pyro.infer.SVI`` with its step recorded once, compiled and replayed.

    The first steps are ordinary ones.  Where a program cannot be replayed, all are, and a warning
    says why.

    Args:
        model: the model.
        guide: the guide.
        optim: a Pyro optimizer.  The update is a part of the graph for torch's ``Adam``, ``AdamW``
            and ``SGD`` and Pyro's ``ClippedAdam``, scheduled or not; with others it follows the
            compiled gradients.
        loss: an objective of this package; its ``compiled`` may hold a ``Compilation``.

    Raises:
        InvalidArgument: if ``loss`` is not an objective of this package.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> loss = dsvi.PathwiseELBO(compiled=dsvi.Compilation(backend="recorded"))
        >>> svi = dsvi.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss)
        >>> losses = svi.run(100)
        >>> losses.shape
        torch.Size([100])
    """

    def __init__(self, model: Any, guide: Any, optim: Any, loss: Any) -> None:
        if not isinstance(loss, Assembles):
            raise InvalidArgument(
                f"CompiledSVI: loss must be an objective of pyro_dsvi, got {type(loss).__name__}; "
                "e.g. dsvi.MixedELBO()"
            )
        super().__init__(model, guide, optim, loss)
        self.compilation = loss.compilation or Compilation()
        self.assemble = loss.assemble
        self._said: set[str] = set()
        self._replayer = Replayer(self, self.compilation, self._say)
        self._flats: dict[tuple[int, ...], list[Flat]] = {}
        self._unrolled: dict[WholeStep, WholeStep | None] = {}
        self._updated_by = self._optimizers()

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take a step.

        Returns:
            The loss, an estimate of the negative bound in nats.
        """
        loss = self._step(args, kwargs).item()
        if math.isnan(loss):
            warnings.warn("the loss is NaN", RuntimeWarning, stacklevel=2)
        return loss

    def run(self, num_steps: int, *args: Any, **kwargs: Any) -> Tensor:
        """Take several steps with the same arguments, several in one call of one graph.

        Args:
            num_steps: how many.
            args: positional arguments of model and guide.
            kwargs: keyword arguments of model and guide.

        Returns:
            The losses in nats, shape ``[num_steps]``.
        """
        losses, left = [], num_steps
        while left > 0:
            several = self._several(left, args, kwargs)
            losses.append(self._step(args, kwargs).reshape(1) if several is None else several)
            left -= len(losses[-1])
        return torch.cat(losses) if losses else torch.zeros(0)

    # -- what the replayer asks for ----------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """The optimizer's update, by itself."""
        clipped = any(clip is not None for clip in self.optim.grad_clip.values())
        if outcome.replayed and not clipped and update_together(outcome, self._optimizer_of):
            return
        outcome.accumulate()
        parameters = set(outcome.parameters.values())
        self.optim(parameters)
        zero_grads(parameters)
        for p in parameters:
            if any(p is leaf for leaf in outcome.leaves):
                p.grad = None

    def build(self, recording: Recording) -> Executable:
        """Make a recording ready to run, with the update in it where that can be."""
        flats = self._flatten(recording)
        if flats:
            return WholeStep(recording, flats, 1, self._lower(recording))

        def run(inputs: Inputs) -> Run:
            return lower(
                recording.graph, inputs.tensors, self.compilation, recording.sites, self._say
            )

        return Gradients(recording, run)

    # -- steps -------------------------------------------------------------------------------

    def _step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        self._follow_optimizers()
        outcome = self._replayer.step(self.model, self.guide, args, kwargs)
        if outcome is None:
            outcome = plain(lambda: self.assemble(self.model, self.guide, args, kwargs))
            self.finish(outcome)
        elif outcome.replayed and outcome.gradients:
            self.finish(outcome)
        return outcome.loss

    def _several(self, left: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The losses of several steps in one call; None if it has to be one step."""
        number = self.compilation.unroll
        if number < 2 or left < number:
            return None
        self._follow_optimizers()
        ready = self._replayer.ready(self.model, self.guide, args, kwargs)
        if ready is None:
            return None
        entry, call = ready
        if not isinstance(entry.executable, WholeStep) or entry.steps + number >= entry.next_check:
            return None
        one = entry.executable
        if one in self._unrolled and self._unrolled[one] is None:
            return None
        entry.steps += number
        several = self._unrolled.get(one)
        if several is None:
            return self._unroll(one, entry.first, number, call.tensors)
        return several.losses(call.tensors)

    def _unroll(
        self, one: WholeStep, recording: Any, number: int, arguments: Sequence[Tensor]
    ) -> Tensor:
        """Put several steps into one graph, and compare it with as many single steps."""
        random = RandomState.now()
        several = WholeStep(recording, one.flats, number, self._lower(recording))
        random.restore()
        losses: list[Tensor] = []

        def singly() -> list[Tensor]:
            losses.append(torch.stack([one.losses(arguments) for _ in range(number)]))
            return losses

        def together() -> list[Tensor]:
            return [several.losses(arguments)]

        found = disagreement(singly, together, one.state, one.keep, one.updated)
        if found is not None:
            self._say(NotCompiledWarning, f"steps are replayed one by one in run: {found}")
        if len(self._unrolled) >= self.compilation.max_recordings:
            self._unrolled.clear()
        self._unrolled[one] = several if found is None else None
        return losses[0]

    def _lower(self, recording: Recording) -> Callable[[torch.fx.GraphModule, list[Tensor]], Run]:
        def lower_(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Run:
            return lower(graph, inputs, self.compilation, recording.sites, self._say, small=True)

        return lower_

    def _flatten(self, recording: Recording) -> Sequence[Flat]:
        """The parameters to be updated in the graph; none if the update is to follow it."""
        named = {id(p) for p in recording.parameters.values()}
        pairs = zip(recording.leaves, recording.kept, strict=True)
        parameters = [leaf for leaf, kept in pairs if kept and id(leaf) in named]
        if not parameters or sum(p.numel() for p in parameters) > self.compilation.max_update:
            return []
        key = tuple(map(id, parameters))
        known = self._flats.get(key)
        if known is not None and all(flat.in_place() for flat in known):
            return known
        clipped = any(self.optim.grad_clip.get(p) is not None for p in parameters)
        flats = [] if clipped else flatten(parameters, self._optimizer_of)
        if not flats:
            self._say(
                NotCompiledWarning,
                "loss and gradients are compiled, but the optimizer's update is not: it is none of "
                "Adam, AdamW, SGD and ClippedAdam as they come, clips gradients by itself, or a "
                "parameter has a hook",
            )
        self._flats[key] = flats
        return flats

    def _follow_optimizers(self) -> None:
        """Forget all recordings where others have come in the place of the optimizers."""
        optimizers = self._optimizers()
        if optimizers != self._updated_by:
            if optimizers[: len(self._updated_by)] != self._updated_by:  # not more, but others
                self._replayer = Replayer(self, self.compilation, self._say)
                self._flats.clear()
            self._updated_by = optimizers

    def _optimizers(self) -> list[Any]:
        """Pyro's optimizer and its torch optimizers, in the order in which they came."""
        return [self.optim, *self.optim.optim_objs.values()]

    def _optimizer_of(self, parameter: Tensor) -> Any:
        optimizer = self.optim.optim_objs.get(parameter)
        return getattr(optimizer, "optimizer", optimizer)  # behind a scheduler

    def _say(self, category: type[Warning], message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, category, stacklevel=2)
