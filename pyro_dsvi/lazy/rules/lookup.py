"""Embeddings whose table has not been drawn."""

from collections.abc import Callable
from typing import Any

from torch.nn.functional import embedding

from pyro_dsvi.lazy.emit import emit
from pyro_dsvi.lazy.operators.lookup import Lookup
from pyro_dsvi.lazy.value import Undrawn
from pyro_dsvi.lazy.ways.marginal import Marginal
from pyro_dsvi.lazy.ways.rows import Rows


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    plain = padding_idx is None and max_norm is None and not scale_grad_by_freq and not sparse
    if type(weight) is not Undrawn or weight.dim() != 2 or not plain:
        return NotImplemented
    return emit(Lookup(), input, weight, "embedding", ways=(Marginal, Rows))


RULES: dict[Any, Callable[..., Any]] = {embedding: _embedding}
