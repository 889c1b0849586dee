"""From a step that runs programs to one that replays a graph, and back where that is not right.

The life of a recording: the first step of a pair of programs is an ordinary one.  The next two are
recorded; they are ordinary steps as well, only slower.  If both recordings are the same, the graph
is compiled, and the step after runs both ways and compares them.  From then on the graph is
replayed, checked again from time to time, as long as all that it was made for holds.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

from pyro_dsvi.compiled.call import Call
from pyro_dsvi.compiled.compare import difference, is_baked
from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.lower import Say
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.randomness import RandomState
from pyro_dsvi.compiled.recording import Recording, plain, record
from pyro_dsvi.compiled.verify import disagreement
from pyro_dsvi.compiled.watch import Watch
from pyro_dsvi.errors import NotCompiledWarning
from pyro_dsvi.graph.surrogate import Assembled


class Executable(Protocol):
    """A recording that has been made ready to run.

    Attributes:
        state: the tensors that it writes in place.
        updated: those of them that an optimizer moves.
        whole: whether nothing is left for the owner to do.
    """

    state: Sequence[Tensor]
    updated: Sequence[Tensor]
    whole: bool

    def keep(self) -> Callable[[], None]:
        """Note what state is no tensor; gives a function that puts it back."""
        ...

    def holds(self) -> bool:
        """Whether the tensors it was made for are still in place."""
        ...

    def __call__(self, arguments: Sequence[Tensor]) -> Outcome:
        """Take a step."""
        ...


class Owner(Protocol):
    """Whose step it is: an objective or an inference algorithm."""

    def assemble(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Assembled:
        """Run the programs, up to the surrogate."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """What follows the gradients in a step that is not replayed."""
        ...

    def build(self, recording: Recording) -> Executable:
        """Make a recording ready to run."""
        ...


@dataclass(eq=False)
class _Entry:
    """A recording on its way, for one signature and one state of what the programs can reach."""

    watch: Watch
    others: list[Any]  # keeps what the signature knows by identity alive
    first: Recording | None = None
    executable: Executable | None = None
    verified: bool = False
    second_chance: bool = True
    steps: int = 0
    next_check: int = 0

    def useful(self) -> bool:
        """Whether it has been replayed."""
        return self.verified and self.steps > _FEW


_FEW = 5  # steps that a recording has to last


class Replayer:
    """Takes an owner's steps by replay where that is right.

    Args:
        owner: whose steps.
        compilation: the settings.
        say: gives a warning once.
    """

    def __init__(self, owner: Owner, compilation: Compilation, say: Say) -> None:
        self.owner = owner
        self.compilation = compilation
        self.say = say
        self.entries: OrderedDict[tuple[Any, ...], list[_Entry]] = OrderedDict()
        self.refused: dict[Any, str] = {}
        self.made = 0
        self._met: set[Any] = set()

    def step(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Outcome | None:
        """Take a step; None if it has to be an ordinary one, which the caller takes."""
        if not torch.is_grad_enabled():
            return None
        if _PYRO_STACK and not self._alone():
            return None
        call = self._call(model, guide, args, kwargs)
        if call is None:
            return None
        entry = self.find(call)
        if entry is not None:
            entry.steps += 1
            if entry.steps < entry.next_check:
                assert entry.executable is not None
                return entry.executable(call.tensors)
        return self._learn(call, entry)

    def ready(
        self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[_Entry, Call] | None:
        """The verified recording for a call, without taking a step."""
        if not torch.is_grad_enabled() or (_PYRO_STACK and not self._alone()):
            return None
        call = self._call(model, guide, args, kwargs)
        entry = None if call is None else self.find(call)
        return None if entry is None or call is None or not entry.verified else (entry, call)

    def _call(self, model, guide, args, kwargs) -> Call | None:
        call = Call.of(model, guide, args, kwargs)
        try:
            if not isinstance(call, str) and (model, guide) not in self.refused:
                return call
        except TypeError:  # a program that has no hash
            call = "the model or guide cannot be hashed"
        if isinstance(call, str):
            self._refuse(None, call)
        return None

    def find(self, call: Call) -> _Entry | None:
        """The entry that was made for a call and still holds."""
        entries = self.entries.get(call.key)
        if entries is None:
            return None
        self.entries.move_to_end(call.key)
        for entry in entries:
            executable = entry.executable
            if (executable is None or executable.holds()) and entry.watch.unchanged():
                return entry
        return None

    # -- steps that are not replayed ---------------------------------------------------------

    def _learn(self, call: Call, entry: _Entry | None) -> Outcome | None:
        pair = call.key[:2]
        if pair not in self._met:
            self._met.add(pair)
            return self._finished(self._plainly(call))
        if entry is None:
            entry = self._new_entry(call)
            if entry is None:
                return None
        if entry.executable is None:
            return self._record(call, entry)
        return self._verify(call, entry)

    def _plainly(self, call: Call) -> Outcome:
        model, guide = call.key[:2]
        _, args, kwargs = call.fresh()
        return plain(lambda: self.owner.assemble(model, guide, args, kwargs))

    def _finished(self, outcome: Outcome) -> Outcome:
        self.owner.finish(outcome)
        return outcome

    def _new_entry(self, call: Call) -> _Entry | None:
        entries = self.entries.setdefault(call.key, [])
        changes = [c for e in entries if not e.useful() and (c := e.watch.change()) is not None]
        if len(changes) > 2:
            self._refuse(
                call.key[:2],
                f"{changes[0]} changes from step to step; keep such a value in a tensor, and "
                "change the tensor's content",
            )
            return None
        if self.made >= 4 * self.compilation.max_recordings:
            changed = next((c for e in entries if (c := e.watch.change())), "the arguments' shapes")
            self.say(
                NotCompiledWarning,
                f"{self.made} recordings were made and the program keeps changing: {changed}; "
                "further ones are taken as ordinary steps",
            )
            return None
        model, guide = call.key[:2]
        objective = getattr(self.owner.assemble, "__self__", None)
        watch = Watch(model=model, guide=guide, arguments=call.others, objective=objective)
        if watch.objections:
            self._refuse((model, guide), watch.objections[0])
            return None
        entry = _Entry(watch, call.others)
        entries.insert(0, entry)
        while sum(map(len, self.entries.values())) > self.compilation.max_recordings:
            oldest = next(iter(self.entries))
            self.entries[oldest].pop()
            if not self.entries[oldest]:
                del self.entries[oldest]
        return entry

    def _record(self, call: Call, entry: _Entry) -> Outcome | None:
        model, guide = call.key[:2]
        aliases, args, kwargs = call.fresh()
        recording, outcome = record(
            lambda: self.owner.assemble(model, guide, args, kwargs), aliases
        )
        self.owner.finish(outcome)
        recording.objections += self._side_effects(entry)
        if recording.objections:
            self._refuse((model, guide), recording.objections[0])
            return outcome
        first, entry.first = entry.first, recording
        if first is None:
            return outcome
        changed = difference(first, recording) or _stale(first, recording, entry.watch)
        if changed is None:
            recording.slots = [
                b._replace(baked=is_baked(a, b))
                for a, b in zip(first.slots, recording.slots, strict=True)
            ]
            self._build(call, entry, recording)
        elif entry.second_chance:  # something may have been set up in the first
            entry.second_chance = False
        else:
            self._refuse((model, guide), changed)
        return outcome

    def _build(self, call: Call, entry: _Entry, recording: Recording) -> None:
        random = RandomState.now()
        entry.executable = self.owner.build(recording)
        random.restore()  # whatever a compiler draws to try its kernels
        entry.next_check = entry.steps
        self.made += 1

    def _side_effects(self, entry: _Entry) -> list[str]:
        """What the programs' own run has changed in Python."""
        changed = entry.watch.side_effect()
        if changed is None:
            return []
        return [
            f"the program changes {changed} while it runs, which a replay would not; keep such a "
            "value in a tensor that is written in place, or change it outside the program"
        ]

    def _verify(self, call: Call, entry: _Entry) -> Outcome | None:
        executable, outcomes, recording = entry.executable, [], entry.first
        assert executable is not None
        assert recording is not None
        again = entry.verified

        def program() -> list[Tensor]:
            outcome = self._again(call, entry) if again else self._plainly(call)
            outcomes.append(self._finished(outcome) if executable.whole else outcome)
            return _tensors(outcome, recording.leaves)

        def replay() -> list[Tensor]:
            return _tensors(executable(call.tensors), recording.leaves)

        found = disagreement(program, replay, executable.state, executable.keep, executable.updated)
        if found is not None and call.key[:2] not in self.refused:
            since = f" after {entry.steps} steps" if again else ""
            self._refuse(call.key[:2], f"{found}{since}")
        entry.verified = True
        entry.next_check = self.compilation.first_check
        while entry.next_check <= entry.steps:
            entry.next_check *= 10
        return outcomes[0] if executable.whole else self._finished(outcomes[0])

    def _again(self, call: Call, entry: _Entry) -> Outcome:
        """Take a step as a recording, to see whether it is still the same."""
        first = entry.first
        assert first is not None
        model, guide = call.key[:2]
        aliases, args, kwargs = call.fresh()
        recording, outcome = record(
            lambda: self.owner.assemble(model, guide, args, kwargs), aliases
        )
        changed = [*recording.objections, *self._side_effects(entry)]
        changed += [d for d in [difference(first, recording)] if d is not None]
        if changed:
            self._refuse((model, guide), f"{changed[0]}, seen after {entry.steps} steps")
        return outcome

    def _refuse(self, pair: Any, reason: str) -> None:
        self.say(NotCompiledWarning, f"the step is not compiled: {reason}")
        if pair is not None:
            self.refused[pair] = reason
            for key in [key for key in self.entries if key[:2] == pair]:
                del self.entries[key]

    def _alone(self) -> bool:
        """Whether nothing stands around the step but what ``SVI.step`` puts there."""
        for handler in _PYRO_STACK:
            if not (isinstance(handler, TraceMessenger) and handler.param_only):
                self.say(
                    NotCompiledWarning,
                    f"the step is not compiled while a handler stands around it "
                    f"({type(handler).__name__}); put it around the model or guide instead",
                )
                return False
        return True


def _tensors(outcome: Outcome, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Loss, and gradients at the recorded leaves and at what else has a name."""
    known = [*leaves, *outcome.parameters.values()]
    pairs = zip(outcome.leaves, outcome.gradients, strict=True)
    gradients = {id(leaf): gradient for leaf, gradient in pairs if gradient is not None}
    places = dict.fromkeys(map(id, known))
    return [outcome.loss, *(gradients[place] for place in places if place in gradients)]


def _stale(first: Recording, second: Recording, watch: Watch) -> str | None:
    """Whether numbers were frozen that come from something too large to be watched."""
    for a, b in zip(first.slots, second.slots, strict=True):
        if not is_baked(a, b):
            continue
        for name, why, size, _ in watch.reach.unwatched:
            if size == a.tensor.numel():
                return f"a tensor may be made in each step from {name}, which {why}"
    return None
