"""Attention whose projections have not been drawn.

Each projection is a linear layer whose rows are positions of an example, so by default it has
weights of its own for each example.  The attention between the projected inputs is torch's own,
called with projections that change nothing.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_dsvi.lazy.value import Undrawn

_ATTENTION = F.multi_head_attention_forward
_PARAMETERS = signature(_ATTENTION)


def _attention(*args: Any, **kwargs: Any) -> Any:
    call = _PARAMETERS.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    inputs = [given[name] for name in ("query", "key", "value")]
    others = ("bias_k", "bias_v", "static_k", "static_v")
    if any(type(x) is Undrawn for x in inputs) or any(given[name] is not None for name in others):
        return NotImplemented
    weights, biases = _projections(given)
    query, key, value = (_project(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
    same = torch.eye(given["embed_dim_to_check"], dtype=query.dtype, device=query.device)
    plain = {
        "query": query,
        "key": key,
        "value": value,
        "in_proj_weight": None,
        "in_proj_bias": None,
        "out_proj_weight": same,
        "out_proj_bias": None,
        "use_separate_proj_weight": True,
        **dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), same),
    }
    out, attention = _ATTENTION(**{**given, **plain})
    return _project(out, given["out_proj_weight"], given["out_proj_bias"]), attention


def _projections(given: dict[str, Any]) -> tuple[Any, Any]:
    """Weights and biases of query, key and value."""
    if given["use_separate_proj_weight"]:
        weights = tuple(given[f"{name}_proj_weight"] for name in "qkv")
    else:
        weights = given["in_proj_weight"].chunk(3)
    bias = given["in_proj_bias"]
    return weights, (None,) * 3 if bias is None else bias.chunk(3)


def _project(x: Tensor, weight: Any, bias: Any) -> Tensor:
    """A linear layer of inputs ``[position, example, i]`` or ``[position, i]``."""
    examples_first = x.unsqueeze(0) if x.dim() == 2 else x.transpose(0, 1)
    out = F.linear(examples_first, weight, bias)
    return out.squeeze(0) if x.dim() == 2 else out.transpose(0, 1)


RULES: dict[Any, Callable[..., Any]] = {_ATTENTION: _attention}
