"""Indexing by a whole number that is a tensor, without reading it.

``x[k]`` with a scalar tensor k reads k in Python, as ``.item()`` does.  The same element is had by
an index of length one, which stays in the graph.
"""

from typing import Any

import torch
from torch import Tensor

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)


def by_tensor(x: Any, index: Any) -> tuple[Any, Any, int] | None:
    """Take apart an index that holds one scalar tensor.

    Args:
        x: what is indexed.
        index: the index.

    Returns:
        An index that selects along the scalar's dimension but keeps it, the rest of the index, and
        the dimension; None if the index is of another kind.
    """
    parts = index if isinstance(index, tuple) else (index,)
    scalars = [i for i, part in enumerate(parts) if _is_scalar(part)]
    others = [part for i, part in enumerate(parts) if i not in scalars]
    if len(scalars) != 1 or not isinstance(x, Tensor):
        return None
    if not all(part is None or part is ... or type(part) in (slice, int) for part in others):
        return None
    (at,) = scalars
    before, after = parts[:at], parts[at + 1 :]
    if any(part is ... for part in before):
        dim = x.dim() - 1 - sum(part is not None for part in after)
    else:
        dim = sum(part is not None for part in before)
    if not 0 <= dim < x.dim():
        return None
    return (slice(None),) * dim + (parts[at].reshape(1),), (*before, *after), dim


def _is_scalar(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() == 0 and part.dtype in _WHOLE
