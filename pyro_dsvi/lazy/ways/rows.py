r"""Noise for looked up rows: an example that looks one row up twice finds the same.

.. math:: b_{et} = \mu_{i(e, t)} + \sigma_{i(e, t)} \odot \varepsilon_{e, f(e, t)}

with f(e, t) the first position at which example e looks that row up.
"""

from typing import Any

from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.roots import root
from pyro_dsvi.lazy.ways.way import Way


class Rows(Way):
    """Noise of a row's own at its first position in an example."""

    def serves(self, operator: Operator, layout: Layout) -> bool:
        return False

    def outputs(self, operator: Operator, a: Any, moments: Moments, layout: Layout) -> Tensor:
        many = layout.positions
        others = [d for d in range(a.dim()) if d not in many]
        order = [*others, *many]
        index = a.permute(order).flatten(len(others))
        first = (index.unsqueeze(-1) == index.unsqueeze(-2)).to(a.dtype).argmax(-1)
        width = layout.sizes[-1]
        epsilon = noise.standard_normal((*index.shape, width), moments.mean)
        epsilon = epsilon.gather(-2, first.unsqueeze(-1).expand(*first.shape, width))
        epsilon = epsilon.unflatten(-2, [a.shape[d] for d in many])
        back = [order.index(d) for d in range(a.dim())]
        epsilon = epsilon.permute(*back, -1)
        return (
            moments.centre(operator, a, layout) + root(moments.covariance(operator, a, a)) * epsilon
        )
