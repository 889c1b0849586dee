"""What a step holds in memory."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def memory_of(step: Callable[[], Any], objective: Any) -> float:
    """Bytes that a step keeps for its backward pass; on a GPU, the peak of what it allocates.

    On the CPU torch counts nothing, so the tensors that autograd keeps are counted, each storage
    once.  A compiled objective's are out of sight: NaN.

    Args:
        step: one step.
        objective: whose step it is.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        if torch.cuda.max_memory_allocated() > before:
            return float(torch.cuda.max_memory_allocated() - before)
    if getattr(objective, "compilation", None) is not None:
        return math.nan
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = max(storage.nbytes(), kept.get(storage.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return float(sum(kept.values()))
