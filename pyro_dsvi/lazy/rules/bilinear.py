"""Bilinear layers: linear ones in the products of two inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from pyro_dsvi.lazy.rules.variants import variants
from pyro_dsvi.lazy.value import Undrawn


def _bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    if type(input1) is Undrawn or type(input2) is Undrawn:
        return NotImplemented
    products = torch.einsum("...i,...j->...ij", input1, input2).flatten(-2)
    return F.linear(products, weight.flatten(1), bias)


RULES: dict[Any, Callable[..., Any]] = dict.fromkeys(variants("bilinear"), _bilinear)
