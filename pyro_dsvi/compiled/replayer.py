"""From a step that runs programs to one that replays a graph, and back where that is not right.

The life of a recording: the first step of a pair of programs is an ordinary one.  The next two are
recorded; they are ordinary steps as well, only slower.  If both recordings are the same, the graph
is compiled, and the step after runs both ways and compares them.  From then on the graph is
replayed, checked again from time to time, as long as all that it was made for holds.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger

from pyro_dsvi.compiled.call import Call
from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.compiled.learning import Entry, Learning, Owner
from pyro_dsvi.compiled.lower import Say
from pyro_dsvi.compiled.outcome import Outcome
from pyro_dsvi.compiled.watch import Watch
from pyro_dsvi.errors import NotCompiledWarning


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
        self.entries: OrderedDict[tuple[Any, ...], list[Entry]] = OrderedDict()
        self.refused: dict[Any, str] = {}
        self.learning = Learning(owner, compilation, self._refuse)
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
    ) -> tuple[Entry, Call] | None:
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

    def find(self, call: Call) -> Entry | None:
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

    def _learn(self, call: Call, entry: Entry | None) -> Outcome | None:
        pair = call.key[:2]
        if pair not in self._met:
            self._met.add(pair)
            return self.learning.finished(self.learning.plainly(call))
        if entry is None:
            entry = self._new_entry(call)
            if entry is None:
                return None
        if entry.executable is None:
            return self.learning.record(call, entry)
        return self.learning.verify(call, entry)

    def _new_entry(self, call: Call) -> Entry | None:
        entries = self.entries.setdefault(call.key, [])
        changes = [c for e in entries if not e.useful() and (c := e.watch.change()) is not None]
        if len(changes) > 2:
            self._refuse(
                call.key[:2],
                f"{changes[0]} changes from step to step; keep such a value in a tensor, and "
                "change the tensor's content",
            )
            return None
        if self.learning.made >= 4 * self.compilation.max_recordings:
            changed = next((c for e in entries if (c := e.watch.change())), "the arguments' shapes")
            self.say(
                NotCompiledWarning,
                f"{self.learning.made} recordings were made and the program keeps changing: "
                f"{changed}; further ones are taken as ordinary steps",
            )
            return None
        model, guide = call.key[:2]
        objective = getattr(self.owner.assemble, "__self__", None)
        watch = Watch(model=model, guide=guide, arguments=call.others, objective=objective)
        if watch.objections:
            self._refuse((model, guide), watch.objections[0])
            return None
        entry = Entry(watch, call.others)
        entries.insert(0, entry)
        while sum(map(len, self.entries.values())) > self.compilation.max_recordings:
            oldest = next(iter(self.entries))
            self.entries[oldest].pop()
            if not self.entries[oldest]:
                del self.entries[oldest]
        return entry

    def _refuse(self, pair: Any, reason: str) -> None:
        if pair is not None and pair in self.refused:  # it was told why already
            return
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
