"""Eight schools, with Pyro's ``AutoNormal``: nearly all of a step is Python."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal

from benchmarks.training import Program


def eight_schools() -> Program:
    """Build the hierarchical model of Rubin (1981)."""
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = pyro.sample("spread", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            effect = pyro.sample("effect", dist.Normal(mean, spread))
            pyro.sample("seen", dist.Normal(effect, errors), obs=effects)

    return Program(model, AutoNormal(model))
