"""What an objective learns beside the programs, by site: saved, moved and handed on."""

from collections.abc import Mapping
from typing import Any

import torch


class Keeper(torch.nn.ModuleDict):
    """Owns the baselines, and other learners of the estimators, that an objective meets.

    One that a guide builds anew in every step goes on from the state of the one before it, by its
    method ``inherit``.
    State that is loaded for a site which has not been met waits until it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, dict[str, Any]] = {}

    def keep(self, site: str, learner: torch.nn.Module | None) -> None:
        """Take in what a site's estimator learns, if anything."""
        if learner is None or any(learner is kept for kept in self.values()):
            return
        key = "at " + site.replace(".", "/")  # a module's name may not hold a dot
        previous = dict(self.items()).get(key)
        inherit: Any = getattr(learner, "inherit", None)
        if previous is not None and inherit is not None:
            inherit(previous)
        self[key] = learner
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            learner.load_state_dict(waiting)

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
