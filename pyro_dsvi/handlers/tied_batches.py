"""Batch normalisation while it trains ties the examples, whose noise must stay apart.

The batch's statistics carry every example's noise to every other one.  With one weight for all that
is how it should be; where each example has noise of its own, the loss is no sum over examples any
more, and its gradient is biased.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.lazy import Root

_TRAINING = 5  # the place of this argument


class WatchBatches(TorchFunctionMode):
    """Refuses batch normalisation in training mode, once outputs have noise of their own.

    Args:
        title: what the handler is called in messages.
        roots: the handler's sites.
    """

    def __init__(self, title: str, roots: Mapping[str, Root]) -> None:
        super().__init__()
        self.title = title
        self.roots = roots

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is batch_norm or func is torch.batch_norm:
            self._check(args, kwargs or {})
        return func(*args, **kwargs) if kwargs else func(*args)

    def _check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        training = kwargs.get("training", args[_TRAINING] if len(args) > _TRAINING else False)
        used = sorted(site for site, root in self.roots.items() if root.uses)
        if training and used:
            raise IncompatibleSite(
                f"site {used[0]!r}: {self.title} gives each example noise of its own, and batch "
                "normalisation in training mode ties the examples together, so the gradient would "
                "be biased; call eval() on it, use a normalisation within examples, or leave the "
                "sites before it out by select=..."
            )
