r"""A regression with a level for each group, whose leave-one-out density is known.

.. math:: y_{gi} = a_g + b\, x_{gi} + \sigma \varepsilon_{gi}, \qquad a_g \sim \mathcal N(m, \tau^2)

Given τ and σ all is normal, with covariance K of the data, and leaving one out is a matter of K's
inverse: :math:`y_i \mid y_{-i}` has variance :math:`v_i = 1 / (K^{-1})_{ii}` and is
:math:`v_i (K^{-1} y)_i` away from its mean.  What is left is a quadrature over two dimensions,

.. math:: p(y_i \mid y_{-i}) = \frac{\int p(y \mid \tau, \sigma)\, dP(\tau, \sigma)}
    {\int p(y \mid \tau, \sigma) / p(y_i \mid y_{-i}, \tau, \sigma)\, dP(\tau, \sigma)}.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import logsumexp
from torch import Tensor

GROUPS, SIZE = 4, 8
WIDE = 2.0  # prior standard deviation of m and b
TAU, SIGMA = (0.0, 0.5), (-0.5, 0.5)  # log-normal priors
GRID = np.linspace(-5.0, 5.0, 41)


def data(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and outputs, ``[GROUPS, SIZE]`` each, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    shape, options = (GROUPS, SIZE), {"generator": generator, "dtype": torch.float64}
    x = torch.randn(shape, **options)
    level = torch.randn(GROUPS, 1, **options)
    return x, level + 0.8 * x + 0.7 * torch.randn(shape, **options)


def model(x: Tensor, y: Tensor) -> None:
    """The regression."""
    one = x.new_ones(())
    m = pyro.sample("m", dist.Normal(0 * one, WIDE))
    b = pyro.sample("b", dist.Normal(0 * one, WIDE))
    tau = pyro.sample("tau", dist.LogNormal(TAU[0] * one, TAU[1]))
    sigma = pyro.sample("sigma", dist.LogNormal(SIGMA[0] * one, SIGMA[1]))
    with pyro.plate("group", x.shape[0], dim=-2):
        a = pyro.sample("a", dist.Normal(m, tau))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)


def exact(x: Tensor, y: Tensor) -> tuple[float, np.ndarray]:
    """Log evidence, and each datum's log density given all others, both in nats."""
    inputs, outputs = x.numpy().reshape(-1), y.numpy().reshape(-1)
    groups = np.repeat(np.arange(x.shape[0]), x.shape[1])
    shared = WIDE**2 * (1 + np.outer(inputs, inputs))
    same = (groups[:, None] == groups).astype(float)
    log_prior = -0.5 * GRID**2 - np.log(np.exp(-0.5 * GRID**2).sum())

    log_w, log_left = [], []
    for t, log_t in zip(np.exp(TAU[0] + TAU[1] * GRID), log_prior, strict=True):
        for s, log_s in zip(np.exp(SIGMA[0] + SIGMA[1] * GRID), log_prior, strict=True):
            covariance = shared + t**2 * same + s**2 * np.eye(len(outputs))
            inverse = np.linalg.inv(covariance)
            pull, variance = inverse @ outputs, 1 / np.diag(inverse)
            log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
            log_w.append(log_t + log_s - 0.5 * (outputs @ pull + log_det))
            log_left.append(-0.5 * (np.log(2 * np.pi * variance) + pull**2 * variance))
    log_evidence = logsumexp(log_w)
    left_out = logsumexp(np.array(log_w)[:, None] - np.array(log_left), axis=0)
    return float(log_evidence), log_evidence - left_out
