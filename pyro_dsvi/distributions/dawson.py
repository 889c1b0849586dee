r"""Twice the integral of Dawson's function, the divergence of Gaussian dropout noise.

.. math::
    F(z) = 2 \int_0^{\sqrt z} D(s)\,ds = z\,{}_2F_2(1, 1; \tfrac32, 2; -z), \qquad
    D(s) = e^{-s^2} \int_0^s e^{t^2}\,dt

F is an entire function of z, with :math:`F'(z) = D(\sqrt z)/\sqrt z`, so nothing is singular where
a mean crosses zero.  With :math:`x = z/(4 + z)`, which maps all of :math:`[0, \infty]` to the unit
interval,

.. math:: F(z) = \tfrac12 \log(1 + 2z) + x^2 S(x), \qquad F'(z) = \frac{1 + x P(x)}{1 + 2z}

leave two smooth functions S and P, which are given as Chebyshev series.  The factors of x keep the
relative precision for small z, the other terms for large z: 1e-13 in float64 at any z, and as many
terms as its precision is worth in float32.  The series were computed with forty digits from the
hypergeometric function; Dawson's differential equation :math:`D' = 1 - 2sD` gives the second
derivative from the same P.

References:
    :cite:p:`dlmf`, equations 7.5.1 and 13.6; :cite:p:`trefethen2013`
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_MIDDLE = 4.0  # the z in the middle of the unit interval: about the best for both series
_SINGLE = 28  # terms that single precision can see


def dawson_integral(z: Tensor) -> Tensor:
    r"""Twice the integral of Dawson's function from 0 to :math:`\sqrt z`.

    Args:
        z: nonnegative, of any shape, float32 or float64.

    Returns:
        :math:`2 \int_0^{\sqrt z} D(s)\,ds`, of the same shape; twice differentiable everywhere.

    Example:
        >>> import torch
        >>> dawson_integral(torch.tensor([0.0, 0.5, 50.0], dtype=torch.float64))
        tensor([0.0000, 0.4267, 2.9327], dtype=torch.float64)
    """
    value: Any = _Integral.apply(z)
    return value


class _Integral(Function):
    """F, with F' as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        x = _mapped(z)
        return 0.5 * torch.log1p(2 * z) + x.square() * _chebyshev(_S, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad * _Slope.apply(z)


class _Slope(Function):
    """F', with F'' = -P / (2 (4 + z)) as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        x = _mapped(z)
        return (1 + x * _chebyshev(_P, x)) / (1 + 2 * z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return -grad * _chebyshev(_P, _mapped(z)) / (2 * (_MIDDLE + z))


def _mapped(z: Tensor) -> Tensor:
    """The unit interval's z / (4 + z), without a NaN at zero or infinity."""
    return 1 / (1 + _MIDDLE / z)


def _chebyshev(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Sum of a Chebyshev series on the unit interval, by Clenshaw's recurrence."""
    if x.dtype != torch.float64:
        coefficients = coefficients[:_SINGLE]
    twice = 4 * x - 2
    b, before = torch.full_like(x, coefficients[-1]), torch.zeros_like(x)
    for c in coefficients[-2:0:-1]:
        b, before = torch.addcmul(c - before, twice, b), b
    return torch.addcmul(coefficients[0] - before, 0.5 * twice, b)


# fmt: off
_S = (
    3.5324093073066396e0, -4.1988963063539115e0, 1.7824132461359548e0, -6.6679810088465774e-1,
    2.7021518531646344e-1, -1.2196007830561481e-1, 5.3463749093140903e-2, -2.2453336102148339e-2,
    9.939407285008842e-3, -4.5335413962371389e-3, 1.9771648856712004e-3, -8.7376370813002429e-4,
    4.047031196953751e-4, -1.8049126403510825e-4, 7.9888359655944761e-5, -3.7473938943128209e-5,
    1.6914273864283703e-5, -7.4788796540690982e-6, 3.5691551649006921e-6, -1.6147255561138325e-6,
    7.1056054818246239e-7, -3.4882270333251865e-7, 1.5563735851767875e-7, -6.8193641337442021e-8,
    3.5079761706003768e-8, -1.4906037169001433e-8, 6.6413545775204663e-9, -3.6460143279866746e-9,
    1.3701894840299999e-9, -6.7748282632090858e-10, 3.879451596867441e-10, -1.1194482793371477e-10,
    7.8562396515887834e-11, -3.9501228352339957e-11, 6.9476345457323868e-12,
    -1.1212929271903253e-11, 2.8866429211864687e-12, -3.9558421787510618e-13,
    1.807982462752145e-12, 1.591391294135989e-13, 1.7244450424659794e-13, -2.4306138572166717e-13,
    -1.1862832073955894e-13, -8.5061113153860303e-14, 4.8879659332652424e-15,
    2.0766505831415705e-14, 2.445131069038525e-14, 1.0429906179113412e-14, 1.619491747836694e-15,
    -3.448523815420044e-15, -3.4732919529827873e-15, -2.0471351851760679e-15,
    -4.4233031871086118e-16, 3.7348685606522704e-16, 5.5799408347026832e-16,
    3.7531285741839693e-16, 1.3711189594150544e-16, -2.4615229807390374e-17,
    -8.0838598555575348e-17, -7.0066130520190502e-17, -3.5253124697620831e-17,
    -5.5150065878995484e-18, 9.6089609278509858e-18, 1.2087677759409515e-17,
)
_P = (
    1.7724538509055161e0, -2.603714501037294e0, 9.656300960052191e-1, -7.5872915931860421e-2,
    -8.0943155148219245e-2, 1.4296615717778001e-2, 1.1303379635528974e-2, -1.3137809996588035e-3,
    -2.1145801939149418e-3, -1.6687980620590099e-4, 3.789515033312367e-4, 1.4391417831699453e-4,
    -3.6874886184912757e-5, -4.6874776207042426e-5, -9.804768331074722e-6, 7.5385971557073226e-6,
    6.0238443173218475e-6, 9.2818213369238575e-7, -1.1808621083976442e-6, -8.9988362199760241e-7,
    -1.6466069323100041e-7, 1.7020321717518401e-7, 1.5285855876178074e-7, 4.3068580557534482e-8,
    -2.0290170799695713e-8, -2.7189108652556586e-8, -1.1855505755676553e-8, 7.3595852366162017e-10,
    4.4925780734121987e-9, 3.0071355200409176e-9, 6.7693970679361891e-10, -5.3834487433149272e-10,
    -6.5115074045119079e-10, -3.1489146494188487e-10, -1.4059937102216689e-11,
    1.0355362462789698e-10, 8.9458975370838113e-11, 3.5258099982448234e-11,
    -4.1462379981883125e-12, -1.6870351911387804e-11, -1.2848235228926547e-11,
    -4.6102148998957401e-12, 9.6383926087260094e-13, 2.6583391986782992e-12,
    1.9915019553843832e-12, 7.3645467759331737e-13, -1.2848955327082492e-13,
    -4.150443700459815e-13, -3.3175872723293333e-13, -1.3971458534381726e-13,
    5.1848532498718425e-15, 6.2775787798754199e-14, 5.7763927040025633e-14, 2.9228558793818195e-14,
    3.9506838635440939e-15, -8.5387162999015942e-15, -1.0062656618596522e-14,
    -6.2788087609884334e-15, -1.9052289172054147e-15, 8.1338028763414053e-16,
    1.6468162491279305e-15, 1.3099866287779752e-15, 6.089635542585157e-16, 4.46520966670264e-17,
    -2.2402512587546122e-16, -2.5135508323532728e-16,
)
# fmt: on
