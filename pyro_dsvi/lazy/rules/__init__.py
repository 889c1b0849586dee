"""What becomes of an undrawn tensor in a torch function: one family of functions a file."""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.lazy.rules import (
    affine,
    attention,
    bilinear,
    convolution,
    einsum,
    linear_algebra,
    lookup,
    structure,
)

_FAMILIES = (
    structure,
    affine,
    linear_algebra,
    einsum,
    convolution,
    lookup,
    bilinear,
    attention,
)
RULES: dict[Any, Callable[..., Any]] = {
    func: rule for family in _FAMILIES for func, rule in family.RULES.items()
}
