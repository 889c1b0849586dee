r"""A linear layer with its bias, as one map of a pair of weights.

.. math:: b_{mo} = \sum_i a_{mi} w_{oi} + v_o
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from pyro_dsvi.lazy.operators.product import Product


@dataclass(frozen=True)
class Affine(Product):
    """Inputs ``[..., i]``, and a pair of weights: a matrix ``[o, i]`` and a bias ``[o]``.

    It serves moments, with noise at the outputs; the weights of each example are two tensors.
    """

    def __call__(self, a: Tensor, w: Any) -> Tensor:
        return linear(a, *w)
