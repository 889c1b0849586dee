"""Tell the inference around us of parameters that no program has."""

import weakref
from typing import Any

import torch
from pyro.poutine.runtime import am_i_wrapped, effectful


def announce(module: torch.nn.Module) -> None:
    """Send a ``param`` message for each parameter of a module, as a Pyro program would.

    ``pyro.infer.SVI`` then trains them in the same step.  The parameters stay the module's own and
    do not enter the param store.
    """
    if not am_i_wrapped():
        return
    for name, parameter in module.named_parameters():
        setattr(parameter, "unconstrained", weakref.ref(parameter))  # noqa: B010  SVI asks for it
        _param(parameter, name)


def _param(parameter: Any, name: str) -> None:
    effectful(lambda *_, **__: parameter, type="param")(name, name=name)
