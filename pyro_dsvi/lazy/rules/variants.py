"""The objects that torch knows one function by."""

from typing import Any

import torch
from torch import Tensor


def variants(*names: str) -> tuple[Any, ...]:
    """The function and the method of each name, where there are such."""
    rooms = (torch, Tensor, torch.nn.functional)
    return tuple(getattr(room, name) for name in names for room in rooms if hasattr(room, name))
