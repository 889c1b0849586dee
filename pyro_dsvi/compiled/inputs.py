"""The inputs of a replayed graph: tensors by reference, checked before each use.

A tensor's content may change between steps, in place.  Its memory, or whether it requires a
gradient, may not: the compiled code was made for these.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter

import pyro
from torch import Tensor

from pyro_dsvi.compiled.recording import Slot

_LOOKS = attrgetter("requires_grad", "dtype", "shape")


class Inputs:
    """Tensors for a graph's placeholders.

    Args:
        slots: what the placeholders stand for.
        parameters: the unconstrained parameters that the programs named.
        checked: further tensors that must stay what they are.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        parameters: Mapping[str, Tensor],
        checked: Sequence[Tensor] = (),
    ) -> None:
        self.tensors = [slot.tensor.detach() for slot in slots]
        self._arguments = [(i, s.argument) for i, s in enumerate(slots) if s.argument is not None]
        fixed = {id(s.tensor): s.tensor for s in slots if s.argument is None and not s.baked}
        fixed.update({id(p): p for p in (*parameters.values(), *checked)})
        self._fixed = list(fixed.values())
        self._pointers = [t.data_ptr() for t in self._fixed]
        self._looks = list(map(_LOOKS, self._fixed))
        store = vars(pyro.get_param_store())["_params"]
        self._named = [(n, p) for n, p in parameters.items() if store.get(n) is p]

    def hold(self) -> bool:
        """Whether all tensors are still what they were when the graph was recorded."""
        if list(map(Tensor.data_ptr, self._fixed)) != self._pointers:
            return False
        if list(map(_LOOKS, self._fixed)) != self._looks:
            return False
        get = vars(pyro.get_param_store())["_params"].get
        return all(get(name) is parameter for name, parameter in self._named)

    def given(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, with a step's tensor arguments in their places."""
        tensors = self.tensors
        if self._arguments:
            tensors = tensors.copy()
            for index, argument in self._arguments:
                tensors[index] = arguments[argument]
        return tensors
