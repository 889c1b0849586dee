r"""The matrix product, to which linear layers, ``matmul``, ``einsum`` and others come down.

.. math:: b_{\ldots m o} = \sum_i a_{\ldots m i} w_{\ldots o i}
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from pyro_dsvi.lazy.layout import Kind, Layout, lead_kinds
from pyro_dsvi.lazy.operators.operator import Operator


@dataclass(frozen=True)
class Product(Operator):
    """Inputs ``[..., m, i]`` times the transpose of weights ``[..., o, i]``.

    The dimensions to the left broadcast.  An input of a linear layer has any number of rows: all
    its dimensions but the last count as m, from the right.
    """

    event: ClassVar[int] = 2
    by_rows: ClassVar[bool] = True

    def __call__(self, a: Tensor, w: Tensor) -> Tensor:
        while w.dim() > 2 and w.shape[0] == 1:
            w = w.squeeze(0)
        return linear(a, w) if w.dim() == 2 else a @ w.mT

    def layout(self, a: Tensor, place: Tensor, example_dims: int) -> Layout:
        batch = torch.broadcast_shapes(a.shape[:-2], place.shape[:-2])
        sizes = (*batch, a.shape[-2])
        missing = len(batch) - (place.dim() - 2)
        pairs = list(zip(place.shape[:-2], place.stride()[:-2], strict=True))
        copies = [False] * missing + [size > 1 and stride > 0 for size, stride in pairs] + [False]
        plates = [False] * missing + [size == 1 for size, _ in pairs] + [False]
        kinds = lead_kinds(sizes, copies, plates, example_dims)
        return Layout((*sizes, place.shape[-2]), (*kinds, Kind.OUTPUT))

    def each(self, a: Tensor, w: Tensor, layout: Layout) -> Tensor:
        lead, many = layout.sizes[:-1], layout.positions
        others = [d for d in range(len(lead)) if d not in many]
        a = a.expand(*lead, a.shape[-1]).permute(*others, *many, -1)
        w = w.permute(*others, *many, -2, -1).flatten(len(others), -3) if many else w
        if not many:
            return (w @ a.unsqueeze(-1)).squeeze(-1)
        w = w.squeeze(len(others))
        out = a.flatten(len(others), -2) @ w.mT
        out = out.unflatten(-2, [lead[d] for d in many])
        order = [*others, *many]
        back = [order.index(d) for d in range(len(lead))]
        return out.permute(*back, -1)

    def align(self, w: Tensor) -> Tensor:
        return w.unsqueeze(-3)

    def sides(self, a: Tensor, w: Tensor, layout: Layout) -> tuple[tuple[int, ...], ...]:
        once = layout.once_without_outputs
        return (*once, w.shape[-1]), (*once, w.shape[-2])
