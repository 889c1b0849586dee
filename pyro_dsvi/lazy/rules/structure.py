"""Functions that take elements to other places: the distribution goes along."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.lazy.rules.variants import variants
from pyro_dsvi.lazy.step import View
from pyro_dsvi.lazy.value import Undrawn

_VIEWS = (
    "view reshape flatten unflatten transpose swapaxes swapdims t permute movedim moveaxis squeeze "
    "unsqueeze expand broadcast_to narrow select diagonal ravel"
)
_PROPERTIES = "T mT H mH"
_SEVERAL = "chunk split tensor_split unbind"
_AS_ANOTHER = {"view_as": "view", "reshape_as": "reshape", "expand_as": "expand"}
_SAME = "clone contiguous"
_LIKE = "zeros_like ones_like empty_like rand_like randn_like full_like"
_NEW = "new_zeros new_ones new_empty new_full new_tensor"


def _view(func: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, *args: Any, **kwargs: Any) -> Any:
        out = x.follow(View(func, args, kwargs)) if type(x) is Undrawn else None
        return NotImplemented if out is None else out

    return rule


def _several(func: Callable[..., Any]) -> Callable[..., Any]:
    def rule(x: Any, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not Undrawn:
            return NotImplemented
        number = len(func(x.place, *args, **kwargs))
        out = [x.follow(View(func, args, kwargs, item)) for item in range(number)]
        return NotImplemented if any(part is None for part in out) else tuple(out)

    return rule


def _as_another(name: str) -> Callable[..., Any]:
    func = getattr(Tensor, name)

    def rule(x: Any, other: Tensor) -> Any:
        return func(x, other.shape)

    return rule


def _getitem(x: Any, index: Any) -> Any:
    """Selection by what is known beforehand; a tensor may select an element twice."""
    parts = index if isinstance(index, tuple) else (index,)
    fixed = all(p is None or p is Ellipsis or type(p) in (int, slice) for p in parts)
    if type(x) is not Undrawn or not fixed:
        return NotImplemented
    out = x.follow(View(Tensor.__getitem__, (index,)))
    return NotImplemented if out is None else out


def _iterate(x: Any) -> Any:
    return iter(torch.unbind(x))


def _itself(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


def _shaped(func: Callable[..., Any]) -> Callable[..., Any]:
    """Functions that look at shape, dtype and device alone."""

    def rule(x: Any, *args: Any, **kwargs: Any) -> Any:
        if type(x) is not Undrawn:
            return NotImplemented
        shown = x.root.law.loc.new_empty(()).expand(x.shape)
        return func(shown, *args, **kwargs)

    return rule


def _equal(x: Any, y: Any) -> Any:
    return True if _same(x, y) else NotImplemented


def _eq(x: Any, y: Any) -> Any:
    if not _same(x, y):
        return NotImplemented
    return torch.ones(x.shape, dtype=torch.bool, device=x.device)


def _same(x: Any, y: Any) -> bool:
    return type(x) is Undrawn and type(y) is Undrawn and x.same(y)


RULES: dict[Any, Callable[..., Any]] = {
    **{f: _view(f) for name in _VIEWS.split() for f in variants(name)},
    **{f: _view(f) for f in (getattr(Tensor, name).__get__ for name in _PROPERTIES.split())},
    **{f: _several(f) for name in _SEVERAL.split() for f in variants(name)},
    **{getattr(Tensor, name): _as_another(to) for name, to in _AS_ANOTHER.items()},
    **{f: _itself for name in _SAME.split() for f in variants(name)},
    **{f: _shaped(f) for name in (_LIKE + " " + _NEW).split() for f in variants(name)},
    **dict.fromkeys(variants("equal"), _equal),
    **dict.fromkeys((*variants("eq"), *variants("__eq__")), _eq),
    Tensor.__getitem__: _getitem,
    Tensor.__iter__: _iterate,
}
