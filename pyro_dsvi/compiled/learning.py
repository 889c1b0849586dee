"""How a recording is made, compared with a second one, and put on trial against the program.

Each of these steps is a real one: it runs the programs once, and its loss and gradients count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pyro_dsvi.compiled.call import Call
from pyro_dsvi.compiled.compare import difference, is_baked
from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.randomness import RandomState
from pyro_dsvi.compiled.recording import Recording, plain, record
from pyro_dsvi.compiled.verify import disagreement
from pyro_dsvi.compiled.watch import Watch
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
class Entry:
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


class Learning:
    """Takes the steps by which an entry becomes one that can be replayed.

    Attributes:
        made: how many recordings were made ready to run.

    Args:
        owner: whose steps.
        compilation: the settings.
        refuse: called with a pair of programs and the reason, where these are to stay eager.
    """

    def __init__(
        self, owner: Owner, compilation: Compilation, refuse: Callable[[Any, str], None]
    ) -> None:
        self.owner = owner
        self.compilation = compilation
        self.made = 0
        self._refuse = refuse

    def plainly(self, call: Call) -> Outcome:
        """Take a step up to its gradients."""
        model, guide = call.key[:2]
        _, args, kwargs = call.fresh()
        return plain(lambda: self.owner.assemble(model, guide, args, kwargs))

    def finished(self, outcome: Outcome) -> Outcome:
        """Have the owner do what follows."""
        self.owner.finish(outcome)
        return outcome

    def record(self, call: Call, entry: Entry) -> Outcome:
        """Take a step as a recording; the second that agrees with the first is made ready."""
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

    def _build(self, call: Call, entry: Entry, recording: Recording) -> None:
        random = RandomState.now()
        entry.executable = self.owner.build(recording)
        random.restore()  # whatever a compiler draws to try its kernels
        entry.next_check = entry.steps
        self.made += 1

    def _side_effects(self, entry: Entry) -> list[str]:
        """What the programs' own run has changed in Python."""
        changed = entry.watch.side_effect()
        if changed is None:
            return []
        return [
            f"the program changes {changed} while it runs, which a replay would not; keep such a "
            "value in a tensor that is written in place, or change it outside the program"
        ]

    def verify(self, call: Call, entry: Entry) -> Outcome:
        """Take a step both ways; from then on the entry is replayed."""
        executable, outcomes, recording = entry.executable, [], entry.first
        assert executable is not None
        assert recording is not None
        again = entry.verified

        def program() -> list[Tensor]:
            outcome = self._again(call, entry) if again else self.plainly(call)
            outcomes.append(self.finished(outcome) if executable.whole else outcome)
            return _tensors(outcome, recording.leaves)

        def replay() -> list[Tensor]:
            return _tensors(executable(call.tensors), recording.leaves)

        found = disagreement(program, replay, executable.state, executable.keep, executable.updated)
        if found is not None:
            since = f" after {entry.steps} steps" if again else ""
            self._refuse(call.key[:2], f"{found}{since}")
        entry.verified = True
        entry.next_check = self.compilation.first_check
        while entry.next_check <= entry.steps:
            entry.next_check *= 10
        return outcomes[0] if executable.whole else self.finished(outcomes[0])

    def _again(self, call: Call, entry: Entry) -> Outcome:
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
