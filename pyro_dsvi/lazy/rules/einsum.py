"""Einsum of one undrawn tensor and one other, where it is a matrix product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pyro_dsvi.lazy.emit import emit
from pyro_dsvi.lazy.operators.product import Product
from pyro_dsvi.lazy.value import Undrawn


def _einsum(equation: Any, *given: Any) -> Any:
    listed = len(given) == 1 and isinstance(given[0], (list, tuple))
    operands: Any = tuple(given[0]) if listed else given
    letters = _letters(equation, operands)
    if letters is None:
        return NotImplemented
    inputs, output = letters
    x, w = operands
    of_x, of_w = inputs
    if type(x) is Undrawn:
        x, w, of_x, of_w = w, x, of_w, of_x
    if type(x) is Undrawn:
        return NotImplemented
    copies = [c for c in of_w if c in of_x and c in output]
    summed = [c for c in of_w if c in of_x and c not in output]
    outputs = [c for c in of_w if c not in of_x]
    rows = [c for c in of_x if c not in of_w]
    if not set(outputs + rows) <= set(output):
        return NotImplemented  # something is summed on one side alone
    first, last = rows[:-1], rows[-1:]
    a = x.permute([of_x.index(c) for c in (*first, *copies, *last, *summed)])
    a = _flat(a, len(summed))
    if not last:
        a = a.unsqueeze(-2)
    w = _weight(w, [of_w.index(c) for c in (*copies, *outputs, *summed)], outputs, summed)
    if type(w) is not Undrawn:
        return NotImplemented
    sizes = [dict(zip(of_w, operands[inputs.index(of_w)].shape, strict=True))[c] for c in outputs]
    out = emit(Product(), a, w, "einsum")
    if out is NotImplemented:
        return out
    out = out.unflatten(-1, sizes) if sizes else out.squeeze(-1)
    if not last:
        out = out.squeeze(-1 - len(sizes))
    order = [*first, *copies, *last, *outputs]
    return out.permute([order.index(c) for c in output])


def _letters(equation: Any, operands: Sequence[Any]) -> tuple[list[str], str] | None:
    """The letters of two operands and of the output; None if it is no product of two matrices."""
    if not isinstance(equation, str) or len(operands) != 2 or "." in equation:
        return None
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != 2 or any(len(set(part)) < len(part) for part in (*inputs, output)):
        return None
    if not arrow:
        every = "".join(inputs)
        output = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    return inputs, output


def _weight(w: Undrawn, order: list[int], outputs: list[str], summed: list[str]) -> Any:
    """The weight as ``[*copies, outputs, inputs]``; drawn, if its elements had to be copied."""
    w = w.permute(order)  # pyright: ignore[reportAssignmentType]
    copies = w.dim() - len(outputs) - len(summed)
    out: Any = _flat(w, len(summed))
    if type(out) is not Undrawn or len(outputs) == 1:
        return out
    return out.unsqueeze(-2) if not outputs else out.flatten(copies, -2)


def _flat(x: Any, last: int) -> Any:
    """The last dimensions as one."""
    if last == 0:
        return x.unsqueeze(-1)
    return x if last == 1 else x.flatten(-last)


RULES: dict[Any, Callable[..., Any]] = {torch.einsum: _einsum}
