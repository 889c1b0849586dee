r"""An estimator that is the sum of a gradient and a control variate.

.. math:: \hat g = G + a\, C, \qquad \mathbb{E}[C] = 0

and so unbiased at every coefficient a that does not depend on the draw behind C.  Both are taken in
the parameters of the site's distribution, so that their second moments tell which a is best.
"""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators.estimator import Estimator, Surrogate


class Part(NamedTuple):
    """A parameter of the site's distribution, and the estimate of its gradient, in two parts.

    Attributes:
        parameter: the parameter, live, its first axis that of the particles if it has one.
        gradient: what is estimated without the control variate; None if nobody asked, where the
            value itself carries it.
        control: what the control variate adds to it, of mean zero.
    """

    parameter: Tensor
    gradient: Tensor | None
    control: Tensor


class Controlled(Estimator):
    """Gives its surrogate as a gradient and a control variate of mean zero."""

    @abstractmethod
    def parts(self, visit: Visit) -> list[Part]:
        """One part for each parameter of the site's distribution."""

    def surrogate(self, visit: Visit) -> Surrogate:
        parts = self.parts(visit)
        return self.combine(parts, [torch.ones_like(part.control) for part in parts])

    def combine(self, parts: list[Part], coefficients: list[Tensor]) -> Surrogate:
        """The gradient, unless the value carries it, and so many times the control variate."""
        products = []
        for (parameter, gradient, control), a in zip(parts, coefficients, strict=True):
            weight = a * control
            if gradient is not None and not self.passes_gradient:
                weight = weight + gradient
            products.append((weight, parameter))
        return Surrogate.sum(*products)
