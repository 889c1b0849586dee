"""One random tensor that has not been drawn, behind all views of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.lazy.laws.law import Law
from pyro_dsvi.lazy.plan import Plan


class Use:
    """Noise that some elements of a root have given to outputs.

    Args:
        place: which elements, by the strides of a view.
        changes: the steps that changed elements on the way to it.
        way: how it was given, which remembers it.
        unit: how many elements side by side are of one piece.
    """

    def __init__(self, place: Tensor, changes: tuple[Any, ...], way: Any, unit: int) -> None:
        self.place = place
        self.changes = changes
        self.way = way
        self.unit = unit

    def is_of(self, view: Any) -> bool:
        """Whether a view has the same elements in the same order, changed in the same way."""
        mine, theirs = self.place, view.place
        return (
            mine.shape == theirs.shape
            and mine.stride() == theirs.stride()
            and mine.storage_offset() == theirs.storage_offset()
            and self.changes == view.changes
        )

    def meets(self, place: Tensor, unit: int) -> bool:
        """Whether another view, with pieces of its own, has a piece in common with this one."""
        unit = max(unit, self.unit)
        mine, theirs = _elements(self.place) // unit, _elements(place) // unit
        return bool(np.intersect1d(mine, theirs).size)


class Root:
    """A random tensor: given to outputs as noise, or drawn once for all.

    Args:
        site: its name.
        law: its law.
        plan: how outputs are drawn.
        rules: what to do for torch functions that need no draw.
    """

    def __init__(
        self, site: str, law: Law, plan: Plan, rules: Mapping[Any, Callable[..., Any]]
    ) -> None:
        self.site = site
        self.law = law.for_one()
        self.plan = plan
        self.rules = rules
        self.uses: list[Use] = []
        self.live = torch.is_grad_enabled() and any(p.requires_grad for p in law.parameters)
        self._value: Tensor | None = None
        self._apart: Tensor | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether it has a value, which is then the same for all views."""
        return self._value is not None

    def value(self, asked_by: str) -> Tensor:
        """The one value, drawn now if it has not been.

        Raises:
            IncompatibleSite: if outputs have been given noise of it before.
        """
        if self._value is None:
            if self.uses:
                raise IncompatibleSite(
                    f"site {self.site!r}: {self.plan.title} has drawn it at the outputs of a "
                    f"layer, and {asked_by} now asks for its value; leave the site out by "
                    "select=..., or use the value before the layer does"
                )
            self._value = self._draw()
        return self._value

    def in_density(self) -> Tensor:
        """Where log densities are to be taken: at the value, or else at one independent draw."""
        if self._value is not None:
            return self._value
        if self._apart is None:
            self._apart = self._draw()
        return self._apart

    def earlier(self, view: Any, unit: int) -> list[Use]:
        """Uses of elements that a view has as well, or of others of the same pieces."""
        return [use for use in self.uses if use.is_of(view) or use.meets(view.place, unit)]

    def note(self, view: Any, way: Any, unit: int) -> None:
        """A view's elements give their noise to outputs from here on."""
        self.uses.append(Use(view.place, view.changes, way, unit))

    def way_for(
        self,
        view: Any,
        asked_by: str,
        serves: Callable[[Any], bool],
        make: Callable[[], Any],
        unit: int,
    ) -> Any:
        """How a view is to give its noise: as before, if its elements have been used before.

        Args:
            view: the view, an undrawn tensor.
            asked_by: the torch function, for messages.
            serves: whether an earlier way can serve again, jointly with its earlier uses.
            make: makes a way for elements that have not been used.
            unit: how many elements side by side are of one piece.

        Raises:
            IncompatibleSite: if the joint law with an earlier use is not offered.
        """
        earlier = self.earlier(view, unit)
        if not earlier:
            way = make()
            self.note(view, way, unit)
            return way
        use = earlier[0]
        if len(earlier) > 1 or not use.is_of(view) or not serves(use.way):
            raise self.second_use(asked_by)
        return use.way

    def second_use(self, asked_by: str) -> IncompatibleSite:
        """The error for a use whose joint law with an earlier one is not offered."""
        return IncompatibleSite(
            f"site {self.site!r}: {self.plan.title} has drawn it at the outputs of a layer, and "
            f"{asked_by} uses it again in another way; the two would have to be drawn jointly, "
            "which is not offered here; leave the site out by select=..."
        )

    def _draw(self) -> Tensor:
        # A program may log a weight where gradients are off, before it uses it where they are on.
        with torch.set_grad_enabled(self.live or torch.is_grad_enabled()):
            return self.law.draw()


def _elements(place: Tensor) -> np.ndarray:
    """The elements of the root that a view is of."""
    at = np.full((1,) * place.dim(), place.storage_offset())
    for dim, (size, stride) in enumerate(zip(place.shape, place.stride(), strict=True)):
        shape = [1] * place.dim()
        shape[dim] = size
        at = at + (np.arange(size) * stride).reshape(shape)
    return at.ravel()
