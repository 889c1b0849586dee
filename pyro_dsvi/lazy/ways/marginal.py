r"""Noise at the outputs, each of its own: local reparameterisation.

.. math:: b = C(a, \mu) + \sqrt{C(a^2, \sigma^2)} \odot \varepsilon

Exact where the outputs of an example use weights of their own.  Where they share some, as the
pixels of a convolution do, their covariance is lost.

Use j of one weight has the noise :math:`\sum_{k \le j} L_{jk} \odot \varepsilon_k`, with L the
Cholesky factor, output by output, of

.. math:: S_{jk} = \mathrm{Cov}[b_j, b_k] = C(a_j \odot a_k, \sigma^2)

so the first use needs no more than its variance, and each later one what it shares with those
before.  An input may depend on earlier outputs, as in a recurrent network: given these, the weight
is Gaussian still, with these very moments.

References:
    :cite:p:`kingma2015local`
"""

from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.lazy import noise
from pyro_dsvi.lazy.laws.law import Moments
from pyro_dsvi.lazy.layout import Layout
from pyro_dsvi.lazy.operators.operator import Operator
from pyro_dsvi.lazy.roots import quotient, root
from pyro_dsvi.lazy.ways.way import Way


class Marginal(Way):
    """Noise of its own for each output, conditioned on that of earlier uses."""

    def __init__(self) -> None:
        self._served: tuple[Operator, Layout] | None = None
        self._inputs: list[Any] = []
        self._noise: list[Tensor] = []
        self._rows: list[list[Tensor]] = []  # of the Cholesky factor

    def serves(self, operator: Operator, layout: Layout) -> bool:
        return self._served == (operator, layout) and not layout.positions

    def outputs(self, operator: Operator, a: Any, moments: Moments, layout: Layout) -> Tensor:
        self._served = operator, layout
        total = rest = moments.covariance(operator, a, a)
        out, row = moments.centre(operator, a, layout), []
        for input_, epsilon, theirs in zip(self._inputs, self._noise, self._rows, strict=True):
            shared = moments.covariance(operator, a, input_)
            for mine, other in zip(row, theirs[:-1], strict=True):
                shared = shared - mine * other
            row.append(quotient(shared, theirs[-1]))
            rest = rest - row[-1].square()
            out = out + row[-1] * epsilon
        if row:  # what rounding leaves must not be taken for noise
            rest = torch.where(rest > 64 * torch.finfo(rest.dtype).eps * total, rest, 0.0)
        epsilon = moments.colour(noise.standard_normal(layout.sizes, total))
        row.append(root(rest))
        self._inputs.append(a)
        self._noise.append(epsilon)
        self._rows.append(row)
        return torch.addcmul(out, row[-1], epsilon)
