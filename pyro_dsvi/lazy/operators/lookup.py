"""Embeddings: rows of a table, looked up by index."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import embedding

from pyro_dsvi.lazy.layout import Kind, Layout, lead_kinds
from pyro_dsvi.lazy.operators.operator import Operator


@dataclass(frozen=True)
class Lookup(Operator):
    """Indices ``[*]`` to rows ``[*, o]`` of a table ``[index, o]``."""

    event: ClassVar[int] = 2
    by_rows: ClassVar[bool] = False  # a row's elements are outputs

    def __call__(self, a: Any, w: Tensor) -> Tensor:
        if isinstance(a, tuple):  # the covariance of two looked up rows: that of a row, or none
            ours, theirs = a
            return embedding(ours, w) * (ours == theirs).unsqueeze(-1)
        return embedding(a, w)

    def cross(self, a: Tensor, b: Tensor) -> Any:
        return a if a is b else (a, b)

    def layout(self, a: Tensor, place: Tensor, example_dims: int) -> Layout:
        no = [False] * a.dim()
        kinds = lead_kinds(a.shape, no, no, example_dims)
        return Layout((*a.shape, place.shape[-1]), (*kinds, Kind.OUTPUT))

    def each(self, a: Tensor, w: Tensor, layout: Layout) -> Tensor:
        rows = w.expand(*a.shape, *w.shape[-2:])
        index = a[..., None, None].expand(*a.shape, 1, w.shape[-1])
        return rows.gather(-2, index).squeeze(-2)

    def sides(self, a: Tensor, w: Tensor, layout: Layout) -> tuple[tuple[int, ...], ...]:
        raise NotImplementedError  # rows have noise of their own, whatever the handler
