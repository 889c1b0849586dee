"""Functions that are matrix products."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from pyro_dsvi.lazy.bias import add_bias
from pyro_dsvi.lazy.emit import emit, emit_affine
from pyro_dsvi.lazy.layout import layout_of, mark
from pyro_dsvi.lazy.operators.product import Product
from pyro_dsvi.lazy.rules.variants import variants
from pyro_dsvi.lazy.value import Undrawn


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if type(input) is Undrawn or weight.dim() != 2:
        return NotImplemented
    if input.dim() == 1:
        out = _linear(input.unsqueeze(0), weight, bias)
        return out if out is NotImplemented else out.squeeze(0)
    if type(weight) is not Undrawn:
        return _plus(_plain_linear(input, weight, bias.root.plan.example_dims), bias, "linear")
    if type(bias) is Undrawn:
        out = emit_affine(input, weight, bias, "linear")
        if out is not NotImplemented:
            return out
    out = emit(Product(), input, weight, "linear")
    return out if out is NotImplemented or bias is None else _plus(out, bias, "linear")


def _matmul(x: Any, y: Any) -> Any:
    """A product in which one side has not been drawn; from the left it is transposed twice."""
    if type(x) is Undrawn and type(y) is Undrawn:
        return NotImplemented
    if type(y) is Undrawn:
        w = y.unsqueeze(-2) if y.dim() == 1 else y.mT
        out = _rows_times(x, w, "matmul")
        return out if out is NotImplemented or y.dim() > 1 else out.squeeze(-1)
    if x.dim() == 1:  # a row times a matrix
        out = _rows_times(y.mT if y.dim() > 1 else y, x.unsqueeze(0), "matmul")
        return out if out is NotImplemented else out.squeeze(-1)
    if y.dim() == 1:
        return _rows_times(y, x, "matmul")
    out = _rows_times(y.mT, x, "matmul")
    return out if out is NotImplemented else out.mT


def _rmatmul(x: Any, y: Any) -> Any:
    return _matmul(y, x)


def _only(dims_x: int, dims_y: int) -> Callable[..., Any]:
    def rule(x: Any, y: Any) -> Any:
        fits = x.dim() == dims_x and y.dim() == dims_y
        return _matmul(x, y) if fits else NotImplemented

    return rule


def _added(dims_x: int, dims_y: int) -> Callable[..., Any]:
    product = _only(dims_x, dims_y)

    def rule(added: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        if type(x) is not Undrawn and type(y) is not Undrawn:
            return NotImplemented
        out = product(x, y)
        if out is NotImplemented:
            return out
        layout = layout_of(out)
        out = out if alpha == 1 else out * alpha
        out = out if layout is None else mark(out, layout)
        return _plus(out, added if beta == 1 else added * beta, "addmm")

    return rule


def _rows_times(a: Tensor, w: Any, asked_by: str) -> Any:
    """Rows of ``a`` times the transpose of ``w``, ``[..., o, i]``."""
    if a.dim() > 1:
        return emit(Product(), a, w, asked_by)
    out = emit(Product(), a.unsqueeze(0), w, asked_by)
    return out if out is NotImplemented else out.squeeze(-2)


def _plain_linear(a: Tensor, w: Tensor, example_dims: int) -> Tensor:
    """Outputs of a layer whose weight is no random tensor."""
    layout = Product().layout(a, w[:1, :1].expand(w.shape), example_dims)
    return mark(linear(a, w), layout)


def _plus(out: Tensor, bias: Any, asked_by: str) -> Any:
    if type(bias) is not Undrawn:
        return out + bias
    total = add_bias(out, bias, asked_by)
    return out + bias.value(asked_by) if total is NotImplemented else total


RULES: dict[Any, Callable[..., Any]] = {
    linear: _linear,
    **dict.fromkeys(variants("matmul", "__matmul__"), _matmul),
    Tensor.__rmatmul__: _rmatmul,
    **dict.fromkeys(variants("mm"), _only(2, 2)),
    **dict.fromkeys(variants("mv"), _only(2, 1)),
    **dict.fromkeys(variants("bmm"), _only(3, 3)),
    **dict.fromkeys(variants("addmm"), _added(2, 2)),
    **dict.fromkeys(variants("addmv"), _added(2, 1)),
    **dict.fromkeys(variants("baddbmm"), _added(3, 3)),
}
