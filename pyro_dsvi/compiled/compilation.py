"""How a step is compiled, for those who want it otherwise than ``compiled=True`` does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from pyro_dsvi.errors import InvalidArgument, check_whole

Pass = Callable[[torch.fx.GraphModule], torch.fx.GraphModule]
_BACKENDS = ("auto", "inductor", "cpp", "recorded")


@dataclass(frozen=True)
class Compilation:
    """Settings of a compiled step; pass one as ``compiled=`` in the place of True.

    Args:
        backend: ``"inductor"`` compiles the recorded graph, ``"cpp"`` also what calls the kernels
            (a small step then takes less than half the time, and its compilation twice as long),
            ``"recorded"`` replays it operation by operation.  ``"auto"`` is ``"cpp"`` for a step
            with the optimizer's update in it (a small model) on the CPU, else ``"inductor"``, and
            ``"recorded"`` where there are too many sites for either to pay.
        max_recordings: signatures (shapes, dtypes, ..., Python numbers) whose recordings are kept;
            the least recently used goes first.
        max_sites: sample sites above which ``"auto"`` replays the recorded graph uncompiled, which
            it says once: compiling takes about half a second a site.
        max_update: parameters (elements) up to which an optimizer's update is a part of the graph;
            beyond, one fused update follows it.
        unroll: steps that ``CompiledSVI.run`` takes in one call of one graph.
        first_check: steps after which a replay is compared with the program again; then after ten
            times as many, and so on.
        passes: rewrites of the recorded graph, each from a ``GraphModule`` to a ``GraphModule``,
            run in order before it is compiled.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> loss = dsvi.MixedELBO(compiled=dsvi.Compilation(backend="recorded"))
    """

    backend: Literal["auto", "inductor", "cpp", "recorded"] = "auto"
    max_recordings: int = 8
    max_sites: int = 50
    max_update: int = 20_000
    unroll: int = 4
    first_check: int = 200
    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            raise InvalidArgument(
                f"Compilation: backend must be one of {_BACKENDS}, got {self.backend!r}"
            )
        for name in ("max_recordings", "unroll", "first_check"):
            check_whole(f"Compilation: {name}", getattr(self, name), 1)
