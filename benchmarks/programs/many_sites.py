"""As many latents as wanted, each with an observation and parameters of its own."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor


class ManySites(Problem):
    """Standard normal latents, each seen with noise of its own scale.

    Args:
        seed: of the observations.
        sites: how many latents.
    """

    noise = 0.5

    def __init__(self, seed: int = 0, sites: int = 10) -> None:
        super().__init__(seed)
        self.seen = self.random.standard_normal(sites, dtype=np.float32)

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        seen, sites = tensor(self.seen, device), len(self.seen)
        constant = sites * (math.log(self.noise) + 0.5 * math.log(2 * math.pi))

        def loss(p, state):
            noise = torch.randn(particles, sites, device=device)
            z = p["mean"] + p["log_scale"].exp() * noise
            misfit = ((seen - z) / self.noise).square()
            total = 0.5 * (z.square() + misfit - noise.square()).sum() / particles
            value = total - p["log_scale"].sum() + constant
            return value, value, state

        start = {"mean": np.zeros(sites), "log_scale": np.zeros(sites)}
        return ByHand(leaves(start, device), loss)

    def in_pyro(self, device: str = "cpu") -> Program:
        seen = tensor(self.seen, device).unbind()
        zero = torch.zeros((), device=device)

        def model():
            for i, value in enumerate(seen):
                z = pyro.sample(f"z{i}", dist.Normal(zero, 1.0))
                pyro.sample(f"x{i}", dist.Normal(z, self.noise), obs=value)

        def guide():
            for i in range(len(seen)):
                mean = pyro.param(f"mean{i}", zero.clone)
                scale = pyro.param(f"scale{i}", zero.exp, constraint=constraints.positive)
                pyro.sample(f"z{i}", dist.Normal(mean, scale))

        return Program(model, guide)

    def in_numpyro(self) -> Program:
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.distributions import constraints

        def model():
            for i, value in enumerate(self.seen):
                z = numpyro.sample(f"z{i}", ndist.Normal(0.0, 1.0))
                numpyro.sample(f"x{i}", ndist.Normal(z, self.noise), obs=value)

        def guide():
            for i in range(len(self.seen)):
                mean = numpyro.param(f"mean{i}", 0.0)
                scale = numpyro.param(f"scale{i}", 1.0, constraint=constraints.positive)
                numpyro.sample(f"z{i}", ndist.Normal(mean, scale))

        return Program(model, guide)
