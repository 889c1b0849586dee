"""A tensor that carries its distribution in the place of its elements.

What rearranges it, or scales and shifts it by constants, gives another such tensor.  What takes its
products with the examples of a minibatch gives outputs that have noise of their own, and never
draws it.  Anything else draws it, once for all that has been made of it.

It has no storage: what reaches it beneath torch's Python functions finds nothing to compute with,
and is refused, as is a gradient that would arrive at it and be lost.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.lazy.laws.law import Law
from pyro_dsvi.lazy.plan import Plan
from pyro_dsvi.lazy.root import Root
from pyro_dsvi.lazy.step import Step, View, point

_PROPERTIES = (
    "shape dtype device layout ndim itemsize requires_grad is_leaf grad_fn is_cuda is_cpu is_meta "
    "is_sparse is_quantized is_nested"
)
_METHODS = (
    "size dim ndimension numel nelement __len__ is_floating_point is_complex element_size "
    "get_device __hash__ register_hook"
)
_METADATA = frozenset(
    [getattr(Tensor, name).__get__ for name in _PROPERTIES.split()]
    + [getattr(room, n) for room in (Tensor, torch) for n in _METHODS.split() if hasattr(room, n)]
)
Rules = Mapping[Any, Callable[..., Any]]


class Undrawn(Tensor):
    """A view of a random tensor that has not been drawn.

    Attributes:
        root: the random tensor.
        steps: the way from it to this view.
        place: a tensor without content, whose strides say which elements of the root these are.
    """

    root: Root
    steps: tuple[Step, ...]
    place: Tensor

    @staticmethod
    def __new__(cls, root: Root, steps: tuple[Step, ...], place: Tensor) -> "Undrawn":
        loc = root.law.loc
        self = Tensor._make_wrapper_subclass(
            cls, place.shape, dtype=loc.dtype, device=loc.device, requires_grad=root.live
        )
        self.root, self.steps, self.place = root, steps, place
        if root.live:
            with DisableTorchFunctionSubclass():
                self.register_hook(partial(_refuse_gradient, root.site))
        return self

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps on the way that changed elements."""
        return tuple(step for step in self.steps if not isinstance(step, View))

    def value(self, asked_by: str) -> Tensor:
        """The view of the root's one value, which is drawn now if it has not been.

        Args:
            asked_by: what needs the value, in words.
        """
        return point(self.steps, self.root.value(asked_by))

    def in_density(self) -> Tensor:
        """Where log densities are to be taken."""
        return point(self.steps, self.root.in_density())

    def follow(self, step: Step) -> "Undrawn | None":
        """The tensor one step further; None if its elements would no longer be known."""
        if not isinstance(step, View):
            return Undrawn(self.root, (*self.steps, step), self.place)
        place = step.point(self.place)
        if _storage(place) != _storage(self.place):
            return None
        return Undrawn(self.root, (*self.steps, step), place)

    def same(self, other: "Undrawn") -> bool:
        """Whether another such tensor has the same elements, whatever their value."""
        if self is other:
            return True
        if self.root is not other.root or self.shape != other.shape:
            return False
        ours = self.place.stride(), self.place.storage_offset(), self.changes
        return ours == (other.place.stride(), other.place.storage_offset(), other.changes)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _METADATA:
            with DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        undrawn: list[Undrawn] = []
        name = getattr(func, "__name__", str(func))
        args, kwargs = (_map(x, partial(_known, undrawn, name)) for x in (args, kwargs))
        if undrawn:
            _refuse_writing(func, name, args, kwargs)
            rule = undrawn[0].root.rules.get(func)
            if rule is not None and (not kwargs or _takes(rule, args, kwargs)):
                out = rule(*args, **kwargs)
                if out is not NotImplemented:
                    return out
            args, kwargs = (_map(x, lambda x: x.value(name)) for x in (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        found: list[Undrawn] = []
        _map((args, kwargs or {}), lambda x: found.append(x) or x)
        root = found[0].root
        raise IncompatibleSite(
            f"site {root.site!r}: {root.plan.title} leaves it undrawn, and {func} asks for its "
            "elements beneath torch's Python functions (TorchScript, vmap, a compiled function), "
            "where its gradient would be lost; leave the site out by select=..."
        )


def undrawn(site: str, law: Law, plan: Plan, rules: Rules) -> Undrawn:
    """A random tensor that has not been drawn.

    Args:
        site: its name.
        law: its law.
        plan: how outputs are drawn.
        rules: what to do for torch functions that need no draw.
    """
    place = torch.empty(law.loc.shape, dtype=torch.uint8, device="meta")
    return Undrawn(Root(site, law, plan, rules), (), place)


def _known(undrawn: list[Undrawn], name: str, x: Undrawn) -> Tensor:
    """The value of a tensor that has one; else the tensor, which is noted."""
    if x.root.is_drawn:
        return x.value(name)
    undrawn.append(x)
    return x


def _map(x: Any, change: Callable[[Undrawn], Any]) -> Any:
    """Change every undrawn tensor among arguments."""
    kind = type(x)
    if kind is Undrawn:
        return change(x)
    if kind is tuple or kind is list:
        return kind(_map(part, change) for part in x)
    if kind is dict:
        return {key: _map(part, change) for key, part in x.items()}
    return x


def _takes(rule: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether a rule knows these names of arguments; where it does not, the tensor is drawn."""
    try:
        signature(rule).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _refuse_writing(func: Any, name: str, args: Any, kwargs: Any) -> None:
    """Refuse what would write into a tensor without elements."""
    in_place = name.endswith("_") and not name.endswith("__")
    target = args[0] if in_place or name in _WRITING else kwargs.get("out")
    if getattr(func, "__name__", "") == "__set__":
        target = args[0]
    if type(target) is Undrawn:
        raise IncompatibleSite(
            f"site {target.root.site!r}: {target.root.plan.title} leaves it undrawn, so {name} "
            "cannot write into it; make a new tensor, or leave the site out by select=..."
        )


_WRITING = frozenset("__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__".split())


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _refuse_gradient(site: str, gradient: Tensor) -> None:
    raise IncompatibleSite(
        f"site {site!r}: it was left undrawn, and its elements were used beneath autograd (by an "
        "autograd.Function, say), where their gradient is lost; leave the site out by select=..."
    )
