"""The Python values that programs can reach, watched by identity from step to step.

A recording freezes every number, and takes every tensor by reference.  So the names under which a
program could find others are watched: its closure, the globals that it names, its attributes and
what these hold.  One look a name is a dictionary's, some tens of nanoseconds.
"""

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from types import CodeType, MappingProxyType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_dsvi.compiled.places import is_library

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_ALL_OF_MODULE = ("_parameters", "_buffers", "_modules")
_SMALL_ARRAY = 4096  # bytes
_LONG = 256
_STANDARD = sys.stdlib_module_names


class Watch:
    """Looks again at what the programs could see.

    Args:
        roots: where to start, by name: the programs and the arguments that are no tensors.
        budget: objects to look at; the nearest come first.

    Attributes:
        entries: how to get each value, and the value.
        names: the names of the entries, for a user.
        large: arrays and lists too large to be looked at in each step: name and size.
    """

    def __init__(self, budget: int = 20_000, **roots: Any) -> None:
        self.entries: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self.names: list[str] = []
        self.large: list[tuple[str, int]] = []
        self._generators: list[tuple[str, Any, str]] = []
        self._look(roots, budget)

    def unchanged(self) -> bool:
        """Whether every name still stands for the same."""
        return self._first_change() is None

    def change(self) -> str | None:
        """The name that stands for something else than at first, in words; None if none does."""
        index = self._first_change()
        if index is not None:
            get, key, before = self.entries[index]
            return f"{self.names[index]} ({_show(before)}, then {_show(_get(get, key))})"
        for name, generator, state in self._generators:
            if _state(generator) != state:
                return f"the state of {name}"
        return None

    def _first_change(self) -> int | None:
        index = 0
        try:
            for get, key, value in self.entries:
                now = get(key)
                if now is not value and not _equal(now, value):
                    return index
                index += 1
        except (KeyError, IndexError, AttributeError, ValueError, TypeError):
            return index
        return None

    def _look(self, roots: dict[str, Any], budget: int) -> None:
        pending: list[tuple[str, Any]] = list(roots.items())
        seen: set[int] = set()
        keep: list[Any] = []  # so that no address is used twice meanwhile
        while pending and len(seen) < budget:
            batch, pending = pending, []
            for name, x in batch:
                if id(x) in seen or isinstance(x, (*_PLAIN, Tensor)):
                    continue
                seen.add(id(x))
                keep.append(x)
                if isinstance(x, np.ndarray):
                    self._array(name, x)
                elif isinstance(x, (list, tuple, dict, set)) and len(x) > _LONG:
                    self.large.append((name, len(x)))
                elif isinstance(x, (np.random.Generator, np.random.RandomState, random.Random)):
                    self._generators.append((name, x, _state(x)))
                else:
                    for label, get, key, value in _parts(name, x):
                        self.entries.append((get, key, value))
                        self.names.append(label)
                        pending.append((label, value))

    def _array(self, name: str, x: np.ndarray) -> None:
        if x.dtype != object and x.nbytes <= _SMALL_ARRAY:
            self.entries.append((_bytes, x, x.tobytes()))
            self.names.append(f"the content of {name}")
        else:
            self.large.append((name, x.size))


def _equal(now: Any, value: Any) -> bool:
    return type(now) is type(value) and type(now) in _PLAIN and now == value


def _get(get: Callable[[Any], Any], key: Any) -> Any:
    try:
        return get(key)
    except (KeyError, IndexError, AttributeError, ValueError, TypeError):
        return "nothing"


def _show(x: Any) -> str:
    if isinstance(x, _PLAIN):
        return repr(x)[:40]
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else "an object"


def _bytes(x: np.ndarray) -> bytes:
    return x.tobytes()


def _state(generator: Any) -> str:
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return str(generator.get_state())
    return str(hash(generator.getstate()))


_Part = tuple[str, Callable[[Any], Any], Any, Any]


def _parts(name: str, x: Any) -> Iterator[_Part]:
    """What an object holds: name, how to get it, from what, and what it is now."""
    if isinstance(x, dict):
        yield f"the length of {name}", _length, x, len(x)
        for key, value in list(x.items()):
            yield f"{name}[{key!r}]", x.__getitem__, key, value
    elif isinstance(x, (list, tuple)):
        if isinstance(x, list):
            yield f"the length of {name}", _length, x, len(x)
        for i, value in enumerate(x):
            yield f"{name}[{i}]", x.__getitem__, i, value
    elif isinstance(x, (set, frozenset)):
        yield f"the length of {name}", _length, x, len(x)
    elif isinstance(x, functools.partial):
        yield f"{name}.func", _func, x, x.func
        yield f"{name}.args", _args, x, x.args
        yield f"{name}.keywords", _keywords, x, x.keywords
    elif inspect.ismethod(x):
        yield f"{name}.__self__", _self, x, x.__self__
        yield f"{name}.__func__", _function, x, x.__func__
    elif inspect.isfunction(x):
        if not _outside(x.__module__):
            yield from _of_function(name, x)
        elif hasattr(x, "__wrapped__"):
            yield f"{name}", _wrapped, x, _wrapped(x)
            yield from _closure(name, x)
        else:
            yield from _closure(name, x)
    elif isinstance(x, nn.Module):
        yield from _of_module(name, x)
    elif not isinstance(x, (type, ModuleType)):
        yield from _of_object(name, x)


def _of_module(name: str, x: nn.Module) -> Iterator[_Part]:
    attributes = vars(x)
    yield f"{name}.training", attributes.__getitem__, "training", x.training
    for group in _ALL_OF_MODULE:
        members = attributes.get(group) or {}
        if members:
            yield f"the number of {name}'s {group[1:]}", _length, members, len(members)
        for key, value in members.items():
            yield f"{name}.{key}", members.__getitem__, key, value
    library = is_library(type(x).__module__) and not type(x).__module__.startswith("pyro_dsvi")
    if not library:
        for key, value in attributes.items():
            told = key == "training" or key in _ALL_OF_MODULE
            if not told and not key.startswith(("_pyro", "__", "_forward")):
                yield f"{name}.{key}", attributes.__getitem__, key, value
    else:
        for key in ("model", "_original_model"):
            if key in attributes:
                yield f"{name}.{key}", attributes.__getitem__, key, attributes[key]
    yield from _methods(name, x)


def _of_object(name: str, x: Any) -> Iterator[_Part]:
    if is_library(type(x).__module__):
        # Of a library's objects only those that wrap a program are looked into.
        if hasattr(x, "msngr") or hasattr(x, "__wrapped__"):
            for key, value in vars(x).items():
                yield f"{name}.{key}", vars(x).__getitem__, key, value
        return
    attributes = getattr(x, "__dict__", None)
    if isinstance(attributes, dict):
        for key, value in attributes.items():
            yield f"{name}.{key}", attributes.__getitem__, key, value
        yield f"the number of {name}'s attributes", _length, attributes, len(attributes)
    yield from _methods(name, x)


def _methods(name: str, x: Any) -> Iterator[_Part]:
    """The functions of an object's class, which may name globals, and the class's own numbers."""
    for kind in type(x).__mro__:
        if _outside(kind.__module__):
            continue
        for key, value in vars(kind).items():
            if inspect.isfunction(value) or (
                isinstance(value, _PLAIN) and not key.startswith("__")
            ):
                yield f"{name}.{key}", vars(kind).__getitem__, key, value


def _of_function(name: str, x: Any) -> Iterator[_Part]:
    yield from _closure(name, x)
    for i, value in enumerate(x.__defaults__ or ()):
        yield f"a default of {name}", _defaults(x, i), x, value
    for key, value in (x.__kwdefaults__ or {}).items():
        yield f"{name}'s default {key}", x.__kwdefaults__.__getitem__, key, value
    words = set(_names(x.__code__))
    for key in sorted(words & x.__globals__.keys()):
        value = x.__globals__[key]
        if isinstance(value, (ModuleType, type)):
            yield from _of_namespace(key, value, words)
        yield f"the global {key}", x.__globals__.__getitem__, key, value


def _of_namespace(name: str, x: Any, words: set[str]) -> Iterator[_Part]:
    """The attributes of a module or class that a function names."""
    if _outside(x.__name__ if isinstance(x, ModuleType) else x.__module__):
        return
    attributes: MappingProxyType | dict = vars(x)
    for key in sorted(words & attributes.keys()):
        yield f"{name}.{key}", attributes.__getitem__, key, attributes[key]


def _closure(name: str, x: Any) -> Iterator[_Part]:
    for key, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
        try:
            yield f"{key} in {name}", _content, cell, cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _outside(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    return is_library(module or "") or root in _STANDARD or root in ("scipy", "sklearn", "pandas")


def _defaults(x: Any, i: int) -> Callable[[Any], Any]:
    return lambda _: x.__defaults__[i]


def _content(cell: Any) -> Any:
    return cell.cell_contents


def _length(x: Any) -> int:
    return len(x)


def _func(x: Any) -> Any:
    return x.func


def _args(x: Any) -> Any:
    return x.args


def _keywords(x: Any) -> Any:
    return x.keywords


def _self(x: Any) -> Any:
    return x.__self__


def _function(x: Any) -> Any:
    return x.__func__


def _wrapped(x: Any) -> Any:
    return x.__wrapped__
