"""What programs can reach in Python: by which names they could find another value in a later step.

A program finds values in the cells of its closure, the globals that its code names, its defaults,
and whatever these hold: containers, attributes, slots, classes, modules.  What the user wrote is
looked into as a whole.  Of a library's objects, which a user may have configured (a dropout layer,
a prior, a handler), the public attributes count; a library's functions are taken at their word.
"""

import array
import builtins
import collections
import functools
import operator
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import numpy as np
import pyro
from torch import Tensor, nn

from pyro_dsvi.compiled.ownership import SEQUENCES, outside, to_be_followed

PLAIN = (bool, int, float, complex, str, bytes, type(None))
MOST = 20_000  # values that are looked at in each step
_LONG = 4096  # of which in one container
_LARGE_ARRAY = 65536  # bytes
_MODULES_OWN = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


class Held(NamedTuple):
    """The values that a container or an object holds, seen all at once.

    Attributes:
        values: a live view of them.
        name: who holds them.
        label: the name of one of them, by its index.
    """

    values: Any
    name: str
    label: Callable[[int], str]


class Place(NamedTuple):
    """A single value, fetched from its holder by a key.

    Attributes:
        fetch: function of holder and key.
        holder: whom to ask.
        key: for what.
        name: its name, for a user.
        theirs: whether a library's object holds it, and may move it by itself.
    """

    fetch: Callable[[Any, Any], Any]
    holder: Any
    key: Any
    name: str
    theirs: bool


class Unwatched(NamedTuple):
    """Something whose content is not looked at.

    Attributes:
        name: its name.
        why: why not, and what to do.
        size: its number of elements.
        word: the attribute by which a program has to ask for it; None if it is asked for.
    """

    name: str
    why: str
    size: int
    word: str | None


class _Next(NamedTuple):
    name: str
    x: Any
    word: str | None = None
    theirs: bool = False


class Reach:
    """Everything that can be reached from some roots.

    Attributes:
        held: containers and objects that are seen as a whole.
        places: single values.
        arrays: arrays that are small enough for their content to be compared.
        generators: random generators outside torch.
        unwatched: what is too large, or moves on by itself.
        words: the names that the programs' code uses.

    Args:
        roots: where to start, by name.
    """

    def __init__(self, **roots: Any) -> None:
        self.held: list[Held] = []
        self.places: list[Place] = []
        self.arrays: list[tuple[str, Any]] = []
        self.generators: list[tuple[str, Any]] = []
        self.unwatched: list[Unwatched] = []
        self.words: set[str] = set()
        self._modules: list[tuple[str, ModuleType]] = []
        self._named: set[tuple[int, str]] = set()
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # so that no address is used twice meanwhile
        self._size = 0
        self._pending = collections.deque(_Next(name, x) for name, x in roots.items())
        self._settings()
        while self._pending and self._size <= MOST:
            self._visit(self._pending.popleft())
            if not self._pending:
                self._of_modules()
        if self._pending:
            why = f"is among more than {MOST} values that the programs can reach, and not watched"
            self.unwatched.append(Unwatched(self._pending[0].name, why, -1, None))

    def objections(self) -> Iterator[str]:
        """What the programs ask for and cannot be watched, in words."""
        for name, why, _, word in self.unwatched:
            if word is None or word in self.words:
                yield f"{name} {why}"

    # -- what there is to follow -------------------------------------------------------------

    def _visit(self, item: _Next) -> None:
        name, x, word, theirs = item
        if isinstance(x, (*PLAIN, Tensor)) or id(x) in self._seen:
            return
        if theirs and not to_be_followed(x):
            return
        self._seen.add(id(x))
        self._alive.append(x)
        if isinstance(x, np.ndarray):
            self._array(item, x.dtype != object and x.nbytes <= _LARGE_ARRAY, x.size)
        elif isinstance(x, (array.array, bytearray)):
            self._array(item, len(x) <= _LARGE_ARRAY, len(x))
        elif isinstance(x, _GENERATORS):
            self.generators.append((name, x))
        elif isinstance(x, (dict, MappingProxyType, tuple, frozenset, *SEQUENCES)):
            self._container(item)
        elif isinstance(x, Iterator):
            why = "is an iterator, which a replay would not advance; pass what it yields"
            self.unwatched.append(Unwatched(name, why, -1, word))
        elif isinstance(x, FunctionType):
            self._function(name, x)
        elif isinstance(x, type):
            if not outside(x.__module__):
                self._attributes(name, vars(x), word)
        elif isinstance(x, ModuleType):
            if not outside(x.__name__):
                self._modules.append((name, x))
        else:
            self._object(item)

    def _follow(self, name: str, x: Any, word: str | None = None, theirs: bool = False) -> None:
        if not isinstance(x, PLAIN):
            self._pending.append(_Next(name, x, word, theirs))

    def _hold(self, values: Any, name: str, label: Callable[[int], str]) -> None:
        self._size += len(values)
        self.held.append(Held(values, name, label))

    def _place(self, fetch: Any, holder: Any, key: Any, name: str, *, theirs: bool = False) -> None:
        self._size += 1
        value = fetch(holder, key)
        self.places.append(Place(fetch, holder, key, name, theirs))
        named = isinstance(key, str) and not key.startswith("__") and type(holder) is not CellType
        self._follow(name, value, key if named else None, theirs)

    def _array(self, item: _Next, small: bool, size: int) -> None:
        if small:
            self.arrays.append((item.name, item.x))
        else:
            why = "is an array whose content is not watched, being too large; make it a tensor once"
            self.unwatched.append(Unwatched(item.name, why, size, item.word))

    def _container(self, item: _Next) -> None:
        name, x, word, theirs = item
        if len(x) > _LONG:
            why = f"holds {len(x)} values, too many to be watched; make it a tensor once"
            self.unwatched.append(Unwatched(name, why, len(x), word))
            return
        if isinstance(x, (dict, MappingProxyType)):
            keys = list(x)
            self._hold(x.values(), name, lambda i: f"{name}[{keys[i]!r}]")
            if keys and word not in _MODULES_OWN:
                self._hold(x.keys(), name, lambda i: f"a key of {name}")
        elif isinstance(x, SEQUENCES):
            self._hold(x, name, lambda i: f"{name}[{i}]")
        pairs = x.items() if isinstance(x, (dict, MappingProxyType)) else enumerate(x)
        for key, value in list(pairs):
            self._follow(f"{name}[{key!r}]", value, word, theirs)
        if not outside(type(x).__module__) and not isinstance(x, MappingProxyType):
            self._users_object(name, x, word)

    def _attributes(self, name: str, attributes: Any, word: str | None = None) -> None:
        """All that an object or class of the user's has."""
        keys = list(attributes)
        self._hold(attributes.values(), name, lambda i: f"{name}.{keys[i]}")
        for key, value in list(attributes.items()):
            if not key.startswith(("_pyro", "__")) and key not in _BOOKKEEPING:
                self._follow(f"{name}.{key}", value, key)

    def _object(self, item: _Next) -> None:
        name, x, word, _ = item
        if isinstance(x, (MethodType, BuiltinMethodType)):
            self._follow(name, x.__self__, word)
            self._follow(name, getattr(x, "__func__", None), word)
        elif isinstance(x, functools.partial):
            for part in (x.func, x.args, x.keywords, vars(x)):
                self._follow(name, part, word)
        elif isinstance(x, (property, staticmethod, classmethod, functools.cached_property)):
            for key in ("fget", "__func__", "func"):
                self._follow(name, getattr(x, key, None), word)
        elif outside(type(x).__module__):
            self._theirs(name, x)
        else:
            self._users_object(name, x, word)

    def _users_object(self, name: str, x: Any, word: str | None) -> None:
        attributes = getattr(x, "__dict__", None)
        if isinstance(attributes, dict):
            self._attributes(name, attributes, word)
        for kind in type(x).__mro__:
            if not outside(kind.__module__):
                self._follow(f"{name}'s class", kind)
            slots = vars(kind).get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else slots:
                if not key.startswith("__") and hasattr(x, key):
                    self._place(getattr, x, key, f"{name}.{key}")

    def _theirs(self, name: str, x: Any) -> None:
        """What a user may have set in a library's object."""
        attributes = getattr(x, "__dict__", None)
        if not isinstance(attributes, dict):
            return
        module = isinstance(x, nn.Module)
        for key, value in list(attributes.items()):
            if module and key in (*_MODULES_OWN, *_HOOKS):
                self._follow(f"{name}.{key}", value, key, True)
            elif not key.startswith("_") or isinstance(value, (FunctionType, nn.Module)):
                self._place(operator.getitem, attributes, key, f"{name}.{key}", theirs=True)
        if module:
            told = f"the number of {name}'s attributes"
            self._place(operator.length_hint, attributes, 0, told, theirs=True)

    def _function(self, name: str, x: FunctionType) -> None:
        for key, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                self._place(getattr, cell, "cell_contents", f"{key} in {name}")
            except ValueError:  # a name that is not bound yet
                continue
        if hasattr(x, "__wrapped__") or x.__dict__ or not outside(x.__module__):
            self._attributes(name, x.__dict__)
            self._follow(name, x.__dict__.get("__wrapped__"))
        if outside(x.__module__):
            return
        for key in ("__code__", "__defaults__", "__kwdefaults__"):
            self._place(getattr, x, key, f"{key.strip('_')} of {name}")
        names = set(_names(x.__code__))
        self.words |= names
        for key in sorted(names):
            if key in x.__globals__:
                self._global(x.__globals__, key, f"the global {key}")
            elif hasattr(builtins, key):
                self._place(dict.get, x.__globals__, key, f"the global {key}")

    def _of_modules(self) -> None:
        """The names that the programs' code may take from the user's modules."""
        for name, module in self._modules:
            for key in sorted(self.words & vars(module).keys()):
                self._global(vars(module), key, f"{name}.{key}")

    def _global(self, names: dict[str, Any], key: str, name: str) -> None:
        if (id(names), key) not in self._named:
            self._named.add((id(names), key))
            self._place(operator.getitem, names, key, name)

    def _settings(self) -> None:
        """Pyro's own settings, but for those of validation, which a replay does not do."""
        for key, (module, path, _) in pyro.settings._REGISTRY.items():
            if not key.startswith("validate"):
                *outer, last = path.split(".")
                holder = functools.reduce(getattr, outer, sys.modules[module])
                self._place(getattr, holder, last, f"Pyro's setting {key}", theirs=True)


_BOOKKEEPING = frozenset(
    key for key in vars(nn.Module()) if key not in (*_MODULES_OWN, *_HOOKS, "training")
)


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
