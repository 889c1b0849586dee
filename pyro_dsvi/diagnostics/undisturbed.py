"""Leave everything as it was found: generators, parameters, gradients, what objectives have learnt.

The programs may still set themselves up in their first run, as automatic guides do.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor


def random_state() -> tuple[Any, ...]:
    """The state of every generator that a program may draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return get_rng_state(), cuda


def same_random_state(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether nothing was drawn between the two."""
    (host, cuda), (host_after, cuda_after) = a, b
    mine, other = host["numpy"], host_after["numpy"]
    return (
        torch.equal(host["torch"], host_after["torch"])
        and host["random"] == host_after["random"]
        and mine[2:] == other[2:]
        and bool((mine[1] == other[1]).all())
        and all(map(torch.equal, cuda, cuda_after))
    )


@contextmanager
def undisturbed(*programs: Any) -> Iterator[None]:
    """Restore generators, the param store, and the state of programs that are modules."""
    state = random_state()
    store = pyro.get_param_store()
    params = store.get_state()
    kept = Kept(params["params"].values())
    modules = [program for program in programs if isinstance(program, torch.nn.Module)]
    buffers = [(m, {n: b.clone() for n, b in m.named_buffers()}) for m in modules]
    kept_too = Kept(p for module in modules for p in module.parameters())
    try:
        yield
    finally:
        store.clear()
        store.set_state(params)
        for name in store:  # get_state took off what __getitem__ attaches
            store[name]
        kept.restore()
        kept_too.restore()
        for module, values in buffers:
            _restore_buffers(module, values)
        set_random_state(state)


def _restore_buffers(module: torch.nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name in values:
                buffer.copy_(values[name])


def set_random_state(state: tuple[Any, ...]) -> None:
    """Go back to a state that :func:`random_state` gave."""
    host, cuda = state
    set_rng_state(host)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


class Kept:
    """Values and gradients of leaf tensors, to be put back.

    Args:
        leaves: the tensors.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self.leaves = list(leaves)
        self._values = [leaf.detach().clone() for leaf in self.leaves]
        self._gradients = [_gradient(leaf) for leaf in self.leaves]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for leaf, value, gradient in zip(self.leaves, self._values, self._gradients, strict=True):
            if not torch.equal(leaf, value):
                leaf.copy_(value)
            leaf.grad = gradient


def _gradient(leaf: Tensor) -> Tensor | None:
    """Its gradient, out of reach of what adds to gradients in place."""
    gradient, leaf.grad = leaf.grad, None
    return gradient


def parameters_of(thing: Any) -> list[Tensor]:
    """The parameters of a module, of which other things have none."""
    return list(thing.parameters()) if isinstance(thing, torch.nn.Module) else []


class Memory:
    """What an objective has learnt, wherever it keeps it, to go back to.

    A module keeps it in ``state_dict``, Pyro's objectives in the param store, others in their
    attributes.

    Args:
        objective: the objective.
    """

    def __init__(self, objective: Any) -> None:
        self._put_back: Callable[[], None]
        if isinstance(objective, torch.nn.Module):
            state = copy.deepcopy(objective.state_dict())
            self._put_back = lambda: _load(objective, state)
        else:
            attributes = copy.deepcopy(vars(objective))
            self._put_back = lambda: vars(objective).update(copy.deepcopy(attributes))
        store = pyro.get_param_store()
        self._names = set(store.keys())
        self._values = {n: leaf.detach().clone() for n, leaf in store.named_parameters()}

    @torch.no_grad()
    def recall(self) -> None:
        """Go back to what was known when this was made."""
        self._put_back()
        store = pyro.get_param_store()
        for name in set(store.keys()) - self._names:
            del store[name]
        for name, leaf in store.named_parameters():
            leaf.copy_(self._values[name])


def _load(objective: torch.nn.Module, state: dict[str, Any]) -> None:
    objective.load_state_dict(copy.deepcopy(state))
