"""Parameters and optimizer state that share their settings, as views of a few flat vectors.

The parameters stay the user's own tensors and the optimizers keep their state: only the memory
behind them moves, into one vector each, so that one update serves all.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise, repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.compiled.outcome import hooks
from pyro_dsvi.compiled.updates import Update, update_of

# What is asked in each step is asked in loops that run in C.
_STATE, _GROUPS = attrgetter("state"), attrgetter("param_groups")
_HOOKS, _HOOKS_AFTER = attrgetter("_backward_hooks"), attrgetter("_post_accumulate_grad_hooks")


class Flat:
    """Parameters under one update, in one vector.

    Args:
        parameters: the parameters, of one dtype and device.
        optimizers: the torch optimizer of each.
        update: what these do.

    Attributes:
        vector: the parameters, shape ``[n]``.
        state: the optimizers' state, shape ``[n]`` each.
        steps: the step counts, one for each parameter.
        parameters: the parameters themselves.
        tracked: those of the tensors that the optimizers know.
    """

    def __init__(
        self, parameters: Sequence[Tensor], optimizers: Sequence[Any], update: Update
    ) -> None:
        self.parameters = parameters
        self.update = update
        self._optimizers = optimizers
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._states = [o.state[p] for o, p in zip(optimizers, parameters, strict=True)]
        self.vector = _joined(p.detach() for p in parameters)
        self.state = [_joined(s[name] for s in self._states) for name in update.state]
        for p, view in zip(parameters, self._views(self.vector), strict=True):
            p.data = view
            p.grad = None
        for name, vector in zip(update.state, self.state, strict=True):
            for state, view in zip(self._states, self._views(vector), strict=True):
                state[name] = view
        self.tracked = [self.vector, *self.state]
        self.steps = self._counted()
        self._known = list(map(_STATE, optimizers))
        names = [name for name, x in self._states[0].items() if isinstance(x, Tensor)]
        self._tensors = [(name, [s.get(name) for s in self._states]) for name in names]
        self._settings = [dict(group) for group in self._groups]
        self._rates: dict[int, tuple[list[float], Tensor]] = {}

    def _counted(self) -> Tensor:
        """The step counts in one tensor: those of the optimizers, where these are tensors."""
        counts = [state.get("step", 0) for state in self._states]
        if not isinstance(counts[0], Tensor):
            return torch.tensor(counts, dtype=torch.float64)
        steps = torch.stack([count.detach().clone() for count in counts])
        for state, view in zip(self._states, steps.unbind(), strict=True):
            state["step"] = view
        self.tracked.append(steps)
        return steps

    def _views(self, vector: Tensor) -> Iterable[Tensor]:
        sizes = [p.numel() for p in self.parameters]
        pieces = vector.split(sizes)
        return [v.view(p.shape) for v, p in zip(pieces, self.parameters, strict=True)]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each parameter begins and ends in the vector."""
        ends = accumulate((p.numel() for p in self.parameters), initial=0)
        return list(pairwise(ends))

    def holds(self) -> bool:
        """Whether state and settings are still what they were, learning rates apart."""
        if any(map(_HOOKS, self.parameters)) or any(map(_HOOKS_AFTER, self.parameters)):
            return False
        if any(p.grad is not None for p in self.parameters) or not self._finds_its_state():
            return False
        groups = [groups[0] for groups in map(_GROUPS, self._optimizers)]
        if not all(map(is_, groups, self._groups)):
            return False
        return groups == self._settings or self._only_rate_changed(groups)

    def _finds_its_state(self) -> bool:
        """Whether nobody has put other state in the place of the vectors' views."""
        if not all(map(is_, map(_STATE, self._optimizers), self._known)):
            return False
        if not all(map(is_, map(dict.get, self._known, self.parameters), self._states)):
            return False
        for name, tensors in self._tensors:
            if not all(map(is_, map(dict.get, self._states, repeat(name)), tensors)):
                return False
        return True

    def _only_rate_changed(self, groups: list[dict[str, Any]]) -> bool:
        """Whether only the learning rate is another, and one for all; it is then noted."""
        rate = groups[0]["lr"]
        if not isinstance(rate, (int, float)):
            return False
        settings = [{**settings, "lr": rate} for settings in self._settings]
        if groups != settings:
            return False
        self._settings = settings
        return True

    def in_place(self) -> bool:
        """Whether the parameters and the optimizers' state still lie in the vectors."""
        for (start, _), p, state in zip(self.offsets, self.parameters, self._states, strict=True):
            pairs = [(p, self.vector)]
            pairs += [(state[n], v) for n, v in zip(self.update.state, self.state, strict=True)]
            for tensor, vector in pairs:
                if tensor.data_ptr() != vector.data_ptr() + start * vector.element_size():
                    return False
        return self.holds()

    def advance(self, steps: int) -> Tensor:
        """Learning rates of the next steps, shape ``[steps]``; the optimizers move past them."""
        rate, decay = self._groups[0]["lr"], self.update.decay
        rates = [rate := rate * decay for _ in range(steps)] if decay != 1 else [rate] * steps
        known = self._rates.get(steps)
        if known is None or known[0] != rates:
            known = self._rates[steps] = rates, torch.tensor(rates, dtype=torch.float64)
        if decay != 1:
            for group in self._groups:
                group["lr"] = rates[-1]
        if self._states and isinstance(self._states[0].get("step"), int):
            self.steps.fill_(self._states[0]["step"])
            for state in self._states:
                state["step"] += steps
        return known[1]

    def keep(self) -> Callable[[], None]:
        """Note what of the optimizers is no tensor; gives a function that puts it back."""
        rates = [group["lr"] for group in self._groups]
        counts = [state.get("step") for state in self._states]

        def put_back() -> None:
            for group, rate in zip(self._groups, rates, strict=True):
                group["lr"] = rate
            for state, count in zip(self._states, counts, strict=True):
                if isinstance(count, int):
                    state["step"] = count

        return put_back


def flatten(parameters: Sequence[Tensor], optimizer_of: Callable[[Tensor], Any]) -> list[Flat]:
    """Parameters in as few vectors as their settings allow; none if some have no known update.

    Args:
        parameters: the parameters.
        optimizer_of: gives the torch optimizer of a parameter, which has taken a step.
    """
    groups: dict[Any, list[Tensor]] = {}
    for p in parameters:
        optimizer = optimizer_of(p)
        update = None if optimizer is None else update_of(optimizer)
        if (
            optimizer is None
            or update is None
            or not p.is_contiguous()
            or any(hooks(p))
            or not p.dtype.is_floating_point
        ):
            return []
        state = optimizer.state[p]
        if any(not isinstance(state.get(name), Tensor) for name in update.state):
            return []
        rate, count = optimizer.param_groups[0]["lr"], float(state.get("step", 0))
        groups.setdefault((update, float(rate), count, p.dtype, p.device), []).append(p)
    return [
        Flat(members, [optimizer_of(p) for p in members], key[0]) for key, members in groups.items()
    ]


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
