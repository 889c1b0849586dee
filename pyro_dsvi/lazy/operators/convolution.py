r"""Convolutions, plain and transposed, in one to three dimensions.

All positions of an example share its kernel.  The exact way is one grouped convolution in which the
examples stand side by side as groups of channels, each with a kernel of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_dsvi.lazy.layout import Kind, Layout
from pyro_dsvi.lazy.operators.operator import Operator


@dataclass(frozen=True)
class Convolution(Operator):
    """Inputs ``[example, channel, *position]`` convolved with kernels.

    Args:
        func: torch's function.
        spatial: dimensions of a position.
        stride: as for the function.
        padding: as for the function.
        dilation: as for the function.
        groups: as for the function.
        output_padding: as for the function, if it is a transposed one; else None.
    """

    func: Callable[..., Tensor]
    spatial: int
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...] | None = None

    @property
    def by_rows(self) -> bool:
        return self.output_padding is None

    @property
    def event(self) -> int:
        return self.spatial + 2

    def __call__(self, a: Tensor, w: Tensor) -> Tensor:
        return self._grouped(a, w, self.groups)

    def _grouped(self, a: Tensor, w: Tensor, groups: int) -> Tensor:
        options: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": groups,
        }
        if self.output_padding is not None:
            options["output_padding"] = self.output_padding
        return self.func(a, w, **options)

    def layout(self, a: Tensor, place: Tensor, example_dims: int) -> Layout:
        transposed = self.output_padding is not None
        channels = place.shape[1] * self.groups if transposed else place.shape[0]
        sizes = zip(a.shape[2:], place.shape[2:], range(self.spatial), strict=True)
        positions = [self._size(length, kernel, d) for length, kernel, d in sizes]
        examples = Kind.EXAMPLE if example_dims else Kind.POSITION
        kinds = (examples, Kind.OUTPUT, *[Kind.POSITION] * self.spatial)
        return Layout((a.shape[0], channels, *positions), kinds)

    def _size(self, length: int, kernel: int, d: int) -> int:
        """Positions of the output along one dimension."""
        reach = self.dilation[d] * (kernel - 1) + 1
        if self.padding == "same":
            return length
        padding = 0 if isinstance(self.padding, str) else self.padding[d]
        if self.output_padding is not None:
            full = (length - 1) * self.stride[d] + reach
            return full - 2 * padding + self.output_padding[d]
        return (length + 2 * padding - reach) // self.stride[d] + 1

    def each(self, a: Tensor, w: Tensor, layout: Layout) -> Tensor:
        weight = w.shape[-self.event :]
        w = w.reshape(-1, *weight)
        if len(w) == 1:
            return self(a, w[0])
        side_by_side = a.reshape(1, -1, *a.shape[2:])
        out = self._grouped(side_by_side, w.flatten(0, 1), len(a) * self.groups)
        return out.reshape(layout.sizes)

    def sides(self, a: Tensor, w: Tensor, layout: Layout) -> tuple[tuple[int, ...], ...]:
        examples, channels, *_ = layout.once
        ones = (1,) * self.spatial
        return (examples, a.shape[1], *ones), (examples, channels, *ones)
