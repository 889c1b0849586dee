"""Tell the inference around us of parameters that no program has."""

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
        send(name, parameter)


def send(name: str, parameter: torch.Tensor) -> None:
    """Send the ``param`` message of one parameter."""
    value: Any = parameter.detach()  # the message's own, so that nothing is left on the parameter
    value.unconstrained = lambda: parameter
    effectful(lambda *_, **__: value, type="param")(name, name=name)
