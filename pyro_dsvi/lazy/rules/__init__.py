"""What becomes of an undrawn tensor in a torch function: one family of functions a file."""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.lazy.rules import affine, linear_algebra, structure

RULES: dict[Any, Callable[..., Any]] = {
    **structure.RULES,
    **affine.RULES,
    **linear_algebra.RULES,
}
