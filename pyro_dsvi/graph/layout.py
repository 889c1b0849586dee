"""One layout for the tensors of a step: particles first, then one axis for each plate dimension."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_dsvi.graph.nodes import Plate, Run


@dataclass(frozen=True)
class Layout:
    """Shape ``[rows, *plates]`` with ``depth`` plate axes, of size one outside a site's plates.

    Attributes:
        depth: number of plate axes.
        plates: the plates by name, over all runs.
        device: device of the step.
    """

    depth: int
    plates: Mapping[str, Plate]
    device: torch.device

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Layout":
        """The common layout of the runs of one step."""
        plates = {name: plate for run in runs for name, plate in run.plates.items()}
        depth = max((-plate.dim for plate in plates.values()), default=0)
        if runs[0].nesting is not None:
            depth = runs[0].nesting
        costs = runs[0].costs
        device = costs[-1].log_density.device if costs else torch.device("cpu")
        return cls(depth, plates, device)

    def arrange(self, x: Tensor, rows: int) -> Tensor:
        """A tensor in a program's batch shape, as ``[rows, *plates]``."""
        if x.device != self.device:  # a number on the CPU beside tensors on the GPU
            x = x.to(self.device)
        missing = 1 + self.depth - x.dim()
        if missing:
            x = x.reshape((1,) * missing + tuple(x.shape[max(0, -missing) :]))
        return x if len(x) == rows else x.expand(rows, *x.shape[1:])

    def sum_to(self, x: Tensor, plates: Iterable[str], target: Iterable[str]) -> Tensor:
        """Sum an arranged tensor, or a stack of them, over the plates that the target lacks."""
        target = frozenset(target)
        dims = [self.plates[name].dim for name in plates if name not in target]
        return x.sum(dims, keepdim=True) if dims else x
