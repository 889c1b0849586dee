"""L_m <= L_K <= log p(x) for m <= K on a linear-Gaussian model, by quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch

from pyro_dsvi.bounds import IWAE
from tests.scenarios import f64, normal

X, NOISE = 0.8, math.log(0.6)
LOC, LOG_SCALE = 0.1, math.log(0.8)  # of the guide
NODES = 24


def log_evidence():
    return float(normal(X, 0.0, 0.5 * math.log(1 + math.exp(2 * NOISE))))


def bound(num_particles, loc=LOC, log_scale=LOG_SCALE):
    noise, weight = (f64(x.tolist()) for x in np.polynomial.hermite_e.hermegauss(NODES))
    z = loc + math.exp(log_scale) * noise
    log_w = normal(z, 0.0, 0.0) + normal(X, z, NOISE) - normal(z, loc, log_scale)
    index = torch.cartesian_prod(*[torch.arange(NODES)] * num_particles)
    index = index.reshape(-1, num_particles).T
    probability = (weight / math.sqrt(2 * math.pi))[index].prod(0)
    return float((probability * IWAE().value(log_w[index])).sum())


def test_more_particles_are_never_worse_and_never_reach_the_evidence():
    bounds = [bound(K) for K in (1, 2, 3, 4)]
    steps = [after - before for before, after in itertools.pairwise(bounds)]
    assert min(steps) > 0.01
    assert steps == sorted(steps, reverse=True)
    assert bounds[-1] < log_evidence()


def test_the_exact_posterior_leaves_no_gap_at_any_number():
    precision = 1 + math.exp(-2 * NOISE)
    posterior = X * math.exp(-2 * NOISE) / precision, -0.5 * math.log(precision)
    for K in (1, 2, 3):
        assert bound(K, *posterior) == pytest.approx(log_evidence(), abs=1e-10)
