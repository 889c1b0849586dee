"""Eight schools, with ``AutoNormal``: nearly all of a step is Python."""

import math
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from torch.nn import functional as F

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor

_LOG_2PI = math.log(2 * math.pi)


class EightSchools(Problem):
    """The hierarchical model of Rubin (1981)."""

    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=np.float32)
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=np.float32)
    # The schools' effects start at half of what was seen.
    start: ClassVar[dict[str, float]] = {"mean": 4.0, "spread": 3.0}
    scale = 0.1

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        effects, errors = tensor(self.effects, device), tensor(self.errors, device)
        centre = [self.start["mean"], math.log(self.start["spread"]), *(self.effects / 2)]
        raw = math.log(math.expm1(self.scale))
        constant = float(
            -0.5 * _LOG_2PI
            - math.log(5.0)  # the mean's prior
            + math.log(2 / (math.pi * 5.0))  # the spread's
            - 8 * 0.5 * _LOG_2PI  # the effects'
            - 8 * 0.5 * _LOG_2PI
            - np.log(self.errors).sum()  # what was seen
            + 10 * 0.5 * _LOG_2PI  # the guide's
        )

        def loss(parameters, state):
            noise = torch.randn(particles, 10, device=device)
            scale = F.softplus(parameters["raw_scale"])
            z = parameters["location"] + scale * noise
            mean, log_spread, effect = z[:, :1], z[:, 1:2], z[:, 2:]
            spread = log_spread.exp()
            log_p = (
                -0.5 * (mean / 5.0).square()
                - torch.log1p((spread / 5.0).square())
                + log_spread
                - 0.5 * ((effect - mean) / spread).square().sum(1, True)
                - 8 * log_spread
                - 0.5 * ((effects - effect) / errors).square().sum(1, True)
            )
            log_q = -0.5 * noise.square().sum() / particles - scale.log().sum()
            value = log_q - log_p.mean() - constant
            return value, value, state

        start = {"location": np.array(centre), "raw_scale": np.full(10, raw)}
        return ByHand(leaves(start, device), loss)

    def in_pyro(self, device: str = "cpu") -> Program:
        effects, errors = tensor(self.effects, device), tensor(self.errors, device)
        start = {name: torch.tensor(value, device=device) for name, value in self.start.items()}

        def model():
            mean = pyro.sample("mean", dist.Normal(effects.new_zeros(()), 5.0))
            spread = pyro.sample("spread", dist.HalfCauchy(effects.new_tensor(5.0)))
            with pyro.plate("schools", 8):
                effect = pyro.sample("effect", dist.Normal(mean, spread))
                pyro.sample("seen", dist.Normal(effect, errors), obs=effects)

        values = {**start, "effect": effects / 2}
        guide = AutoNormal(model, init_loc_fn=init_to_value(values=values), init_scale=self.scale)
        return Program(model, guide)

    def in_numpyro(self) -> Program:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import init_to_value
        from numpyro.infer.autoguide import AutoNormal

        def model():
            mean = numpyro.sample("mean", ndist.Normal(0.0, 5.0))
            spread = numpyro.sample("spread", ndist.HalfCauchy(5.0))
            with numpyro.plate("schools", 8):
                effect = numpyro.sample("effect", ndist.Normal(mean, spread))
                numpyro.sample("seen", ndist.Normal(effect, self.errors), obs=self.effects)

        values = {**self.start, "effect": jnp.asarray(self.effects / 2)}
        guide = AutoNormal(model, init_loc_fn=init_to_value(values=values), init_scale=self.scale)
        return Program(model, guide)
