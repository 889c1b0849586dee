r"""The horseshoe prior of one weight, its local scale integrated out.

.. math::
    w \mid \lambda \sim N(0, \tau^2\lambda^2), \quad \lambda \sim C^+(0, 1)
    \quad\Longrightarrow\quad
    p(w) = \frac{e^h E_1(h)}{\tau \sqrt{2\pi^3}}, \qquad h = \frac{w^2}{2\tau^2}

with :math:`E_1` the exponential integral: infinite at zero, so that small weights are shrunk away,
and with tails like :math:`1/w^2`, so that large ones are left alone.

For h ≤ 2 the power series of :math:`E_1(h) + \log h` is summed, beyond it the continued fraction of
:math:`e^h E_1(h)`, both to double precision.

References:
    :cite:p:`carvalho2010horseshoe`; :cite:p:`dlmf`, equations 6.6.2 and 6.9.1
"""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.autograd import Function

_EULER = 0.5772156649015329
_NORMALISER = -0.5 * math.log(2 * math.pi**3)
_BRANCH = 2.0
_SERIES, _FRACTION = 24, 48  # terms for double precision on either side


class Horseshoe(TorchDistribution):
    """The marginal law of a Gaussian with a half-Cauchy standard deviation.

    Args:
        scale: the global scale τ.
        validate_args: as for any distribution.

    References:
        :cite:p:`carvalho2010horseshoe`

    Example:
        >>> import torch
        >>> Horseshoe(1.0).log_prob(torch.tensor([0.1, 1.0, 10.0]))
        tensor([-0.5056, -2.1439, -5.9951])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support: Any = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Horseshoe":
        return Horseshoe(self.scale.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats; infinite at 0."""
        density: Any = _LogScaledE1.apply(0.5 * (value / self.scale).square())
        return density - self.scale.log() + _NORMALISER

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        return self.scale * torch.empty_like(noise).cauchy_().abs() * noise


class _LogScaledE1(Function):
    r""":math:`\log(e^h E_1(h))`, with the derivative :math:`1 - 1/(h\,e^h E_1(h))`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor) -> Tensor:
        return _scaled_e1(h).log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return grad * (1 - 1 / (h * _scaled_e1(h)))


def _scaled_e1(h: Tensor) -> Tensor:
    small, large = h.clamp_max(_BRANCH), h.clamp_min(_BRANCH)
    term, entire = torch.ones_like(h), torch.zeros_like(h)
    for k in range(1, _SERIES + 1):
        term = -term * small / k
        entire = entire - term / k
    tail = torch.zeros_like(h)
    for k in range(_FRACTION, 0, -1):
        tail = k * k / (large + (2 * k + 1) - tail)
    near = small.exp() * (entire - _EULER - small.log())
    return torch.where(h <= _BRANCH, near, 1 / (large + 1 - tail))
