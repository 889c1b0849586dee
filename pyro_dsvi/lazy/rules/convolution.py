"""Convolutions, plain and transposed, whose kernel or bias has not been drawn."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.lazy.bias import biases
from pyro_dsvi.lazy.emit import emit
from pyro_dsvi.lazy.operators.convolution import Convolution
from pyro_dsvi.lazy.value import Undrawn


def _plain(func: Callable[..., Tensor], spatial: int) -> Callable[..., Any]:
    def rule(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        stride, dilation = _tuple(stride, spatial), _tuple(dilation, spatial)
        padding = padding if isinstance(padding, str) else _tuple(padding, spatial)
        operator = Convolution(func, spatial, stride, padding, dilation, groups)
        return _convolve(operator, input, weight, bias)

    return rule


def _transposed(func: Callable[..., Tensor], spatial: int) -> Callable[..., Any]:
    def rule(
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        stride, padding = _tuple(stride, spatial), _tuple(padding, spatial)
        dilation, output_padding = _tuple(dilation, spatial), _tuple(output_padding, spatial)
        operator = Convolution(func, spatial, stride, padding, dilation, groups, output_padding)
        return _convolve(operator, input, weight, bias)

    return rule


def _convolve(operator: Convolution, x: Any, weight: Any, bias: Any) -> Any:
    if type(x) is Undrawn:
        return NotImplemented
    name = operator.func.__name__
    one = x.dim() == operator.spatial + 1
    x = x.unsqueeze(0) if one else x
    out = emit(operator, x, weight, name) if type(weight) is Undrawn else operator(x, weight)
    if out is NotImplemented:
        return out
    if bias is not None:
        out = out + _channels(bias, out, operator.spatial, name)
    return out.squeeze(0) if one else out


def _channels(bias: Any, out: Tensor, spatial: int, name: str) -> Tensor:
    """A bias for each example, if it is not one for all, to broadcast over positions."""
    if type(bias) is Undrawn:
        examples = len(out) if bias.root.plan.example_dims else 1
        each = biases(bias, (examples,), name)
        bias = bias.value(name) if each is None else each
    return bias.reshape(*bias.shape, *[1] * spatial)


def _tuple(x: Any, number: int) -> tuple[int, ...]:
    x = (x,) if isinstance(x, int) else tuple(x)
    return x * number if len(x) == 1 else x


RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(torch, f"conv{n}d"): _plain(getattr(torch, f"conv{n}d"), n) for n in (1, 2, 3)},
    **{
        func: _transposed(func, n)
        for n, func in enumerate(
            (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), start=1
        )
    },
}
