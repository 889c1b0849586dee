"""Find the tensors that exist before a run: no draw of that run can have reached them."""

import functools
import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any

from torch import Tensor

from pyro_dsvi.graph.influence import mark_as_past


def know(*roots: Any, budget: int = 20_000) -> None:
    """Mark the tensors that can be found from ``roots``, so that they carry nothing.

    Looks into containers, modules, distributions, plain objects, partials, bound methods and
    functions (closure, defaults and the globals they name).  What it misses is merely treated
    with caution in the first run.
    """
    pending, seen = list(roots), set()
    while pending and len(seen) < budget:
        x = pending.pop()
        if id(x) in seen or x is None or isinstance(x, (bool, int, float, complex, str, bytes)):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            mark_as_past(x)
        elif isinstance(x, dict):
            pending.extend(x.values())
        elif isinstance(x, (tuple, list, set, frozenset)):
            pending.extend(x)
        elif isinstance(x, functools.partial):
            pending.extend((x.func, x.args, x.keywords))
        elif inspect.ismethod(x):
            pending.extend((x.__self__, x.__func__))
        elif inspect.isfunction(x):
            pending.extend(_captured(x))
        elif not isinstance(x, type) and not inspect.ismodule(x):
            pending.append(getattr(x, "__dict__", None))
            pending.extend(getattr(type(x), name, None) for name in ("forward", "__call__"))


def _captured(function: Any) -> Iterable[Any]:
    yield function.__defaults__
    yield function.__kwdefaults__
    yield getattr(function, "__wrapped__", None)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    for name in _names(function.__code__):
        yield function.__globals__.get(name)


def _names(code: CodeType) -> Iterable[str]:
    """The names that a function and the functions inside it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
