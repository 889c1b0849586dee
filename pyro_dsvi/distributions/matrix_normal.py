r"""The matrix normal: a Gaussian matrix with one covariance between rows, another between columns.

.. math:: W = M + U Z V^\top, \quad Z_{ij} \sim \mathcal{N}(0, 1), \qquad
    \mathrm{vec}(W) \sim \mathcal{N}(\mathrm{vec}(M), \; UU^\top \otimes VV^\top)

A layer's weights need :math:`o^2 + i^2` numbers for their covariance in place of :math:`(oi)^2`.

References:
    :cite:p:`louizos2016structured`
"""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.linalg import solve_triangular


class MatrixNormal(TorchDistribution):
    """Matrices whose rows and columns are correlated.

    Args:
        loc: mean, shape ``[..., rows, columns]``.
        row_tril: lower triangular factor of the covariance between rows, ``[..., rows, rows]``.
        column_tril: the same between columns, ``[..., columns, columns]``.

    References:
        :cite:p:`louizos2016structured`

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> law = dsvi.distributions.MatrixNormal(torch.zeros(2, 3), torch.eye(2), torch.eye(3))
        >>> law.rsample().shape, law.event_shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    arg_constraints: ClassVar[Any] = {
        "loc": constraints.independent(constraints.real, 2),
        "row_tril": constraints.lower_cholesky,
        "column_tril": constraints.lower_cholesky,
    }
    support: ClassVar[Any] = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self, loc: Tensor, row_tril: Tensor, column_tril: Tensor, *, validate_args: Any = None
    ) -> None:
        tensors = loc, row_tril, column_tril
        batch = torch.broadcast_shapes(*(x.shape[:-2] for x in tensors))
        self.loc, self.row_tril, self.column_tril = (
            x.expand(*batch, *x.shape[-2:]) for x in tensors
        )
        super().__init__(batch, loc.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MatrixNormal":
        shape = torch.Size(batch_shape)
        parts = (self.loc, self.row_tril, self.column_tril)
        return MatrixNormal(*(x.expand(*shape, *x.shape[-2:]) for x in parts), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        rows, columns = (x.square().sum(-1) for x in (self.row_tril, self.column_tril))
        return rows.unsqueeze(-1) * columns.unsqueeze(-2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.row_tril @ noise @ self.column_tril.mT

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        residual = solve_triangular(self.row_tril, value - self.loc, upper=False)
        residual = solve_triangular(self.column_tril, residual.mT, upper=False)
        return -residual.square().sum((-2, -1)) / 2 - self._log_volume - self._size / 2 * _LOG_2PI

    def entropy(self) -> Tensor:
        """Differential entropy in nats."""
        return self._log_volume + self._size / 2 * (1 + _LOG_2PI)

    @property
    def _size(self) -> int:
        return self.event_shape.numel()

    @property
    def _log_volume(self) -> Tensor:
        """Half the log determinant of the covariance."""
        rows, columns = self.event_shape
        across, along = (_log_diagonal(x) for x in (self.row_tril, self.column_tril))
        return columns * across + rows * along


_LOG_2PI = math.log(2 * math.pi)


def _log_diagonal(tril: Tensor) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(MatrixNormal, dist.Independent)
def _kl_to_independent(q: MatrixNormal, p: dist.Independent) -> Tensor:
    """From independent normal elements: their expected negative log density, less the entropy."""
    base: Any = p.base_dist
    if type(base) is not dist.Normal or p.reinterpreted_batch_ndims != 2:
        raise NotImplementedError
    squares = q.variance + (q.loc - base.loc).square()
    crossed = squares / (2 * base.scale.square()) + base.scale.log() + _LOG_2PI / 2
    return crossed.sum((-2, -1)) - q.entropy()
