"""The Python values that programs can reach, compared from step to step.

A recording freezes every number, and takes every tensor by reference.  So what the programs could
find is looked at before each replay: first by identity, in loops that run in C (some 20 ns a
value), and where that fails by value, for what is plain.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor

from pyro_dsvi.compiled.reach import PLAIN, Place, Reach

_GONE = (KeyError, IndexError, AttributeError, ValueError, TypeError, RuntimeError)


class Watch:
    """Looks again at what the programs could see.

    Args:
        roots: where to start, by name: the programs and the arguments that are no tensors.

    Attributes:
        reach: what there is to look at.
        objections: what the programs could see and cannot be looked at, in words.
    """

    def __init__(self, **roots: Any) -> None:
        self.reach = Reach(**roots)
        self.objections = list(self.reach.objections())
        self._views = [held.values for held in self.reach.held]
        self._lengths = [len(view) for view in self._views]
        self._contents = [list(view) for view in self._views]
        self._filled = [view for view in self._views if len(view)]
        self._flat = list(chain.from_iterable(self._contents))
        self._columns = _columns(self.reach.places)
        self._digests = [(x, _digest(x)) for _, x in self.reach.arrays]
        self._states = [(name, x, _state(x)) for name, x in self.reach.generators]

    def unchanged(self) -> bool:
        """Whether every name still stands for the same."""
        try:
            if list(map(len, self._views)) != self._lengths:
                return False
            if not all(map(is_, chain.from_iterable(self._filled), self._flat)):
                return not any(self._changes())
            for fetch, holders, keys, before, _ in self._columns:
                if not all(map(is_, map(fetch, holders, keys), before)):
                    return not any(self._changes())
        except _GONE:
            return False
        return all(_digest(x) == before for x, before in self._digests)

    def change(self) -> str | None:
        """The name that stands for something else than at first, in words; None if none does."""
        if self.unchanged() and not self._states:
            return None
        return next((told for told, _, _ in self._changes()), None) or self._moved()

    def side_effect(self) -> str | None:
        """As ``change``, after the programs ran: what a library moved by itself is left to it."""
        if self.unchanged() and not self._states:
            return None
        theirs: dict[int, set[int]] = {}
        for told, column, index in list(self._changes()):
            if column is None or not self._columns[column][4][index].theirs:
                return told
            theirs.setdefault(column, set()).add(index)
        for column, indices in theirs.items():
            for part in self._columns[column][1:]:
                part[:] = [x for i, x in enumerate(part) if i not in indices]
        return self._moved()

    def _moved(self) -> str | None:
        return next((f"the state of {n}" for n, x, s in self._states if _state(x) != s), None)

    def _changes(self) -> Iterator[tuple[str, int | None, int]]:
        """What has changed by value: in words, and where it stands among the single values."""
        for held, before in zip(self.reach.held, self._contents, strict=True):
            if len(held.values) != len(before):
                yield f"the length of {held.name} ({len(before)}, then {len(held.values)})", None, 0
                continue
            for i, (now, value) in enumerate(zip(held.values, before, strict=True)):
                if now is not value and not _equal(now, value):
                    yield f"{held.label(i)} ({_show(value)}, then {_show(now)})", None, i
        for column, (fetch, holders, keys, before, places) in enumerate(self._columns):
            for i, (holder, key, value) in enumerate(zip(holders, keys, before, strict=True)):
                now = _fetched(fetch, holder, key)
                if now is not value and not _equal(now, value):
                    yield f"{places[i].name} ({_show(value)}, then {_show(now)})", column, i
        for (name, x), (_, digest) in zip(self.reach.arrays, self._digests, strict=True):
            if _digest(x) != digest:
                yield f"the content of {name}", None, 0


_Column = tuple[Callable[[Any, Any], Any], list[Any], list[Any], list[Any], list[Place]]


def _columns(places: list[Place]) -> list[_Column]:
    """Single values, together where they are fetched alike."""
    alike: dict[Any, list[Place]] = {}
    for place in places:
        alike.setdefault(place.fetch, []).append(place)
    return [
        (
            fetch,
            [place.holder for place in members],
            [place.key for place in members],
            [fetch(place.holder, place.key) for place in members],
            members,
        )
        for fetch, members in alike.items()
    ]


def _equal(now: Any, value: Any) -> bool:
    """Whether two objects are the same to a program; a zero's sign tells them apart."""
    if type(now) is not type(value) or type(now) not in PLAIN:
        return False
    return repr(now) == repr(value) if isinstance(now, (float, complex)) else now == value


def _fetched(fetch: Callable[[Any, Any], Any], holder: Any, key: Any) -> Any:
    try:
        return fetch(holder, key)
    except _GONE:
        return "nothing"


def _show(x: Any) -> str:
    if isinstance(x, PLAIN):
        return repr(x)[:40]
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else "an object"


def _digest(x: Any) -> tuple[Any, int]:
    if isinstance(x, np.ndarray):
        return (x.shape, x.dtype), zlib.crc32(x.tobytes())
    return len(x), zlib.crc32(bytes(x))


def _state(generator: Any) -> str:
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return str(generator.get_state())
    assert isinstance(generator, random.Random)
    return str(hash(generator.getstate()))
