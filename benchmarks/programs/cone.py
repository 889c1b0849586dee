r"""The noisy cone of Becker et al. (2024), whose posterior is a ring, and guides for it.

.. math:: x, y \sim N(0, 10), \quad z \sim N(x^2 + y^2,\; 0.1 + (x^2 + y^2) / 100), \quad z = 5,

the second number being a standard deviation, as in the paper's programs.  With t = x² + y² the
evidence is an integral over one dimension,

.. math:: p(z) = \int_0^\infty \frac{1}{200} e^{-t / 200} N(z; t, 0.1 + t / 100)\, dt,

and log p(z = 5) = -5.3232.

Two guides know of the ring.  One draws an angle and t, and says what area they take up:
:math:`dx\, dy = \tfrac12 dt\, d\alpha`, so :math:`q(x, y) = 2\, q(\alpha)\, q(t)`.  The other blurs
a point of a circle, :math:`x \sim N(\rho \cos\alpha, \sigma)`, y likewise, and the angle is an
auxiliary variable: the model is extended by a density r(α | x, y) of any form, which leaves the
evidence as it is.  The bound is as good as that of the guide without the angle if r is

.. math:: q(\alpha \mid x, y) = \mathrm{VonMises}\big(\mathrm{atan2}(y, x),\;
    (\rho / \sigma^2) \sqrt{x^2 + y^2}\big).

References:
    :cite:p:`agakov2004auxiliary`, :cite:p:`becker2024programmable`
"""

import math
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions.constraints import positive

OBSERVED, WIDTH = 5.0, 10.0


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def log_evidence(observed: float = OBSERVED) -> float:
    """Log evidence in nats, by quadrature."""

    def joint(t: float) -> float:
        deviation = 0.1 + t / 100
        score = (observed - t) / deviation
        likelihood = math.exp(-0.5 * score**2) / (deviation * math.sqrt(2 * math.pi))
        return math.exp(-t / (2 * WIDTH**2)) / (2 * WIDTH**2) * likelihood

    middle, reach = observed, 12 * (0.1 + observed / 100)
    ends = [0.0, max(0.0, middle - reach), middle, middle + reach, 100 * (1 + observed)]
    options = {"epsabs": 1e-14, "epsrel": 1e-12, "limit": 200}
    parts = [quad(joint, low, high, **options)[0] for low, high in pairwise(ends)]
    return math.log(math.fsum(parts))


def posterior_density(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """p(x, y | z = 5)."""
    t = x**2 + y**2
    deviation = 0.1 + t / 100
    prior = np.exp(-t / (2 * WIDTH**2)) / (2 * np.pi * WIDTH**2)
    likelihood = np.exp(-0.5 * ((OBSERVED - t) / deviation) ** 2) / deviation
    return prior * likelihood / math.sqrt(2 * math.pi) / math.exp(log_evidence())


# -- models --------------------------------------------------------------------------------------


def model() -> tuple[Tensor, Tensor]:
    """The cone."""
    x = pyro.sample("x", dist.Normal(_number(0.0), _number(WIDTH)))
    y = pyro.sample("y", dist.Normal(_number(0.0), _number(WIDTH)))
    t = x**2 + y**2
    pyro.sample("z", dist.Normal(t, 0.1 + t / 100), obs=_number(OBSERVED))
    return x, y


def model_uniform_angle() -> None:
    """The cone with an angle that has nothing to do with the place."""
    model()
    pyro.sample("angle", _any_angle())


def model_von_mises_angle() -> None:
    """The cone with an angle that lies near that of the place; how near is learnt."""
    x, y = model()
    sharpness = pyro.param("sharpness", _number(1.0), constraint=positive)
    pyro.sample("angle", dist.VonMises(torch.atan2(y, x), sharpness * (x**2 + y**2).sqrt()))


# -- guides --------------------------------------------------------------------------------------


def mean_field() -> dict[str, Tensor]:
    """Independent normals, which start on one side of the ring."""
    drawn = {}
    for name, start in (("x", 1.0), ("y", 0.0)):
        loc = pyro.param(f"loc_{name}", _number(start))
        scale = pyro.param(f"scale_{name}", _number(1.0), constraint=positive)
        drawn[name] = pyro.sample(name, dist.Normal(loc, scale))
    return drawn


def blurred_circle() -> dict[str, Tensor]:
    """A point of a circle, blurred; the angle is for the model to explain."""
    angle = pyro.sample("angle", _any_angle())
    radius = pyro.param("radius", _number(2.0), constraint=positive)
    blur = pyro.param("blur", _number(1.0), constraint=positive)
    x = pyro.sample("x", dist.Normal(radius * angle.cos(), blur))
    y = pyro.sample("y", dist.Normal(radius * angle.sin(), blur))
    return {"x": x, "y": y}


def polar() -> dict[str, Tensor]:
    """Any angle, and a log-normal squared radius; x and y follow from them."""
    angle = pyro.sample("angle", _any_angle(), infer={"is_auxiliary": True})
    loc = pyro.param("loc", _number(1.0))
    scale = pyro.param("scale", _number(1.0), constraint=positive)
    t = pyro.sample("t", dist.LogNormal(loc, scale), infer={"is_auxiliary": True})
    x = pyro.sample("x", dist.Delta(t.sqrt() * angle.cos(), log_density=math.log(2.0)))
    y = pyro.sample("y", dist.Delta(t.sqrt() * angle.sin()))
    return {"x": x, "y": y}


def _any_angle() -> dist.Uniform:
    return dist.Uniform(_number(0.0), _number(2 * math.pi))
