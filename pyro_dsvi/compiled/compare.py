"""Whether two recordings of one program are the same step, and if not, why: in words.

What is no tensor was frozen when it was recorded.  If it differs between two recordings, the
program is dynamic, and no single graph is right for it.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.compiled.recording import Recording, Slot


def difference(first: Recording, second: Recording) -> str | None:
    """What distinguishes two recordings; None if nothing does."""
    if len(first.leaves) != len(second.leaves) or any(
        a is not b for a, b in zip(first.leaves, second.leaves, strict=True)
    ):
        return "the step reaches other parameters from one step to the next"
    mine, other = list(first.graph.graph.nodes), list(second.graph.graph.nodes)
    index = {node: i for i, node in enumerate(mine)}
    index_of_other = {node: i for i, node in enumerate(other)}
    inputs = iter(zip(first.slots, second.slots, strict=False))
    for a, b in zip(mine, other, strict=False):
        if a.op != b.op or (a.target != b.target and a.op == "call_function"):
            return (
                f"the program takes another path from one step to the next: `{_name(b)}` where "
                f"`{_name(a)}` was, {_place(b, a)}"
            )
        if a.op == "placeholder":
            changed = _different_inputs(*next(inputs))
            if changed is not None:
                return f"{changed}, used {_place(next(iter(b.users), b), a)}"
            continue
        changed = _different(
            _constants((a.args, a.kwargs), index), _constants((b.args, b.kwargs), index_of_other)
        )
        if changed is not None:
            return f"{changed} in `{_name(b)}`, {_place(b, a)}"
    if len(mine) != len(other):
        return "the program takes more operations in one step than in the next"
    return None


def _different_inputs(a: Slot, b: Slot) -> str | None:
    if a.argument != b.argument:
        return "another tensor is used from one step to the next"
    if a.argument is not None or a.tensor is b.tensor or _same_memory(a.tensor, b.tensor):
        return None
    if a.tensor.shape != b.tensor.shape or a.tensor.dtype != b.tensor.dtype:
        return "a tensor of another shape or dtype is used from one step to the next"
    if _equal(a.tensor, b.tensor):
        return None
    if a.tensor.numel() == 1:
        return f"a number changes from step to step ({a.tensor.item()}, then {b.tensor.item()})"
    return "a tensor is made anew in Python, with other content, from step to step"


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return (
        a.data_ptr() == b.data_ptr()
        and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
        and (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    with torch.no_grad():
        if a.dtype.is_floating_point:
            return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        return torch.equal(a, b)


def is_baked(a: Slot, b: Slot) -> bool:
    """Whether an input was made from Python's numbers anew in each step."""
    return a.argument is None and a.tensor is not b.tensor and not _same_memory(a.tensor, b.tensor)


def _constants(x: Any, index: dict[torch.fx.Node, int]) -> Any:
    """Arguments with each node as its number."""
    if isinstance(x, torch.fx.Node):
        return ("node", index[x])
    if isinstance(x, (tuple, list)):
        return [_constants(part, index) for part in x]
    if isinstance(x, dict):
        return {key: _constants(part, index) for key, part in x.items()}
    return x


def _different(a: Any, b: Any) -> str | None:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((d for d in map(_different, a, b) if d is not None), None)
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((d for key in a if (d := _different(a[key], b[key])) is not None), None)
    if isinstance(a, (float, complex)) and isinstance(b, (float, complex)):
        if a == b or (a != a and b != b):
            same_sign = not (isinstance(a, float) and isinstance(b, float)) or math.copysign(
                1, a
            ) == math.copysign(1, b)
            return None if same_sign else "a zero changes its sign"
        return f"a Python number changes from step to step ({a}, then {b})"
    if type(a) is type(b) and a == b:
        return None
    if isinstance(a, tuple) or isinstance(b, tuple):
        return "another intermediate result is used from one step to the next"
    return f"a Python value changes from step to step ({a}, then {b})"


def _name(node: torch.fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).partition(".")[0]


def _place(*nodes: torch.fx.Node) -> str:
    return next((n.meta["place"] for n in nodes if "place" in n.meta), "in the program")
