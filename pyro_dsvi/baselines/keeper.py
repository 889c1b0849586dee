"""The baselines of an objective, by site: whose state is saved, moved and handed on."""

from collections.abc import Mapping
from typing import Any

import torch

from pyro_dsvi.baselines.baseline import Baseline


class Keeper(torch.nn.ModuleDict):
    """Owns the baselines that an objective meets.

    A baseline that a guide builds anew in every step goes on from the state of the one before it.
    State that is loaded for a site which has not been met waits until it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, dict[str, Any]] = {}

    def keep(self, site: str, baseline: Baseline) -> None:
        """Take a site's baseline in."""
        if any(baseline is kept for kept in self.values()):
            return
        key = "at " + site.replace(".", "/")  # a module's name may not hold a dot
        previous = dict(self.items()).get(key)
        if isinstance(previous, Baseline):
            baseline.inherit(previous)
        self[key] = baseline
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            baseline.load_state_dict(waiting)

    def _load_from_state_dict(  # torch's hook behind load_state_dict
        self, state_dict: Mapping[str, Any], prefix: str, *rest: Any
    ) -> None:
        for name, value in state_dict.items():
            key, _, inner = name.removeprefix(prefix).partition(".")
            if name.startswith(prefix) and inner and key not in self:
                self._waiting.setdefault(key, {})[inner] = value
        super()._load_from_state_dict(state_dict, prefix, *rest)
        unexpected = rest[3]
        unexpected[:] = [
            name
            for name in unexpected
            if name.removeprefix(prefix).partition(".")[0] not in self._waiting
        ]
