"""One fused update of many parameters, each of which has a torch optimizer of its own.

A large model's update stays outside the graph: joining its gradients would copy them all.  Torch's
fused kernels take lists of parameters, and serve them all in one call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from pyro_dsvi.compiled.outcome import Outcome, hooks
from pyro_dsvi.compiled.updates import Adam, update_of


def update_together(outcome: Outcome, optimizer_of: Callable[[Tensor], Any]) -> bool:
    """Update all parameters at once, where all are under one and the same Adam.

    Args:
        outcome: loss and gradients.
        optimizer_of: gives the torch optimizer of a parameter.

    Returns:
        Whether it was done.
    """
    named = {id(p) for p in outcome.parameters.values()}
    pairs = [
        (leaf, g)
        for leaf, g in zip(outcome.leaves, outcome.gradients, strict=True)
        if g is not None and id(leaf) in named
    ]
    optimizers = [optimizer_of(p) for p, _ in pairs]
    if not optimizers or any(type(o) is not type(optimizers[0]) for o in optimizers):
        return False
    groups = [o.param_groups[0] for o in optimizers]
    settings = {key: value for key, value in groups[0].items() if key != "params"}
    if any({**group, "params": ()} != {**settings, "params": ()} for group in groups):
        return False
    update = update_of(optimizers[0])
    if not isinstance(update, Adam) or any(p.grad is not None or any(hooks(p)) for p, _ in pairs):
        return False
    states = [o.state[p] for o, (p, _) in zip(optimizers, pairs, strict=True)]
    if not all(states) or settings["fused"] is False or settings["foreach"]:
        return False
    with torch.no_grad():
        adam(
            [p for p, _ in pairs],
            [g for _, g in pairs],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=update.betas[0],
            beta2=update.betas[1],
            lr=settings["lr"],
            weight_decay=update.weight_decay,
            eps=update.eps,
            maximize=update.maximize,
            decoupled_weight_decay=update.decoupled,
        )
    return True
