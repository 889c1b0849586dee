"""Scaling and shifting by constants, which moments follow, and biases added to outputs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.bias import add_bias
from pyro_dsvi.lazy.rules.variants import variants
from pyro_dsvi.lazy.step import Scale, Shift
from pyro_dsvi.lazy.value import Undrawn


def _scaled(x: Undrawn, factor: Any) -> Any:
    return x.follow(Scale(factor)) if _is_constant(factor, x) else NotImplemented


def _mul(x: Any, y: Any) -> Any:
    return _scaled(x, y) if type(x) is Undrawn else _scaled(y, x)


def _div(x: Any, y: Any, **kwargs: Any) -> Any:
    if type(x) is not Undrawn or kwargs or not _is_constant(y, x):
        return NotImplemented
    return x.follow(Scale(1 / y))


def _neg(x: Undrawn) -> Any:
    return x.follow(Scale(-1))


def _add(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    if alpha != 1:
        y = y * alpha
    x, y = (x, y) if type(x) is Undrawn else (y, x)
    if _is_constant(y, x):
        return x.follow(Shift(y))
    return add_bias(y, x, "add") if isinstance(y, Tensor) else NotImplemented


def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return _add(x, -y if alpha == 1 else y * -alpha)


def _rsub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return _add(-x if alpha == 1 else x * -alpha, y)


def _is_constant(c: Any, x: Undrawn) -> bool:
    """Whether an operand is a number or tensor that broadcasts to ``x``, of its dtype."""
    if not isinstance(c, Tensor):
        return isinstance(c, (int, float)) and not isinstance(c, bool)
    if type(c) is Undrawn or (c.dim() and c.dtype != x.dtype) or c.dim() > x.dim():
        return False
    if c.is_complex() or (c.device != x.device and c.dim()):
        return False
    return all(n in (1, m) for n, m in zip(reversed(c.shape), reversed(x.shape), strict=False))


RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(variants("mul", "multiply", "__mul__", "__rmul__"), _mul),
    **dict.fromkeys(variants("div", "divide", "true_divide", "__truediv__"), _div),
    **dict.fromkeys(variants("neg", "negative", "__neg__"), _neg),
    **dict.fromkeys(variants("add", "__add__", "__radd__"), _add),
    **dict.fromkeys(variants("sub", "subtract", "__sub__"), _sub),
    **dict.fromkeys(variants("__rsub__", "rsub"), _rsub),
}
