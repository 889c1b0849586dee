"""A model and a guide with their arguments, and the parameters that they have."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dsvi.diagnostics.undisturbed import Kept
from pyro_dsvi.passes.freeze import leaves_behind


@dataclass(eq=False)
class Programs:
    """A pair of programs, to be run again and again; as a context, gives gradients back.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.

    Attributes:
        parameters: leaf tensors by name, as far as they have been met: those of ``pyro.param`` and
            of modules by their names there, others by number.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    _kept: list[Kept] = field(default_factory=list, repr=False)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *error: Any) -> None:
        for kept in self._kept:
            kept.restore()

    def watch(self) -> Any:
        """A handler that records the parameters of the programs that run inside it."""
        return poutine.trace(param_only=True)

    def meet(self, watched: Any, result: Tensor) -> None:
        """Take in the parameters of a run.

        Args:
            watched: the handler under which it ran.
            result: what was computed from them; shows leaves that have no name.
        """
        for name, msg in watched.trace.nodes.items():
            if msg["type"] == "param":
                self._meet(name, msg["value"].unconstrained())
        for name, parameter in self._of_modules():
            self._meet(name, parameter)
        for leaf in leaves_behind([result]).values():
            self._meet(f"leaf {len(self.parameters)}", leaf)

    def _meet(self, name: str, leaf: Tensor) -> None:
        known = any(leaf is parameter for parameter in self.parameters.values())
        if leaf.requires_grad and not known:
            self.parameters[name] = leaf
            self._kept.append(Kept([leaf]))

    def _of_modules(self) -> Iterator[tuple[str, Tensor]]:
        for role, program in (("model", self.model), ("guide", self.guide)):
            if isinstance(program, torch.nn.Module):
                for name, parameter in program.named_parameters():
                    yield f"{role}.{name}", parameter
