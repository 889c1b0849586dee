"""What is the user's and what a library's, among the objects that a program can reach."""

import collections
import functools
import sys
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch.distributions as torch_dist
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions.constraints import Constraint

from pyro_dsvi.compiled.places import is_library

SEQUENCES = (list, set, collections.deque)
_HOLDERS = (
    *(dict, tuple, *SEQUENCES, np.ndarray, SimpleNamespace),
    *(FunctionType, MethodType, functools.partial),
)
# Objects of libraries that are looked into even where another such object holds them.
_CONFIGURED = (
    nn.Module,
    torch_dist.Distribution,
    torch_dist.Transform,
    Constraint,
    Messenger,
)
# What an objective was made of.
_SETTINGS = tuple(f"pyro_dsvi.{x}" for x in ("estimators", "baselines", "bounds", "strategy"))
_STANDARD = sys.stdlib_module_names


def to_be_followed(x: Any) -> bool:
    """Whether a library's object may hold it for a user: not its own machinery."""
    return (
        isinstance(x, (*_CONFIGURED, *_HOLDERS))
        or type(x).__module__.startswith(("argparse", "collections", *_SETTINGS))
        or not outside(type(x).__module__)
    )


def outside(module: str | None) -> bool:
    """Whether a module is none of the user's."""
    module = module or ""
    standard = module.partition(".")[0] in _STANDARD and module != "__main__"
    return is_library(module) or standard
