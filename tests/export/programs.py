"""Pupils in schools: a hierarchical regression with two plates, and a guide that is near."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

SCHOOLS = ["Choate", "Deerfield", "Exeter", "Hotchkiss", "Lawrence"]
PUPILS = 4
NOISE = 0.8


def data() -> tuple[Tensor, Tensor]:
    """Hours of study and results, ``[schools, pupils]`` each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(SCHOOLS), PUPILS, generator=generator, dtype=torch.float64)
    level = torch.randn(len(SCHOOLS), 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x, level + 0.5 * x + NOISE * noise


def model(x: Tensor, y: Tensor | None = None, noise: float = NOISE) -> None:
    """A level for each school, one slope and one intercept for all."""
    zero = x.new_zeros(())
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.LogNormal(zero, 0.5))
    with pyro.plate("school", x.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(weights[..., 0], tau))
        pyro.deterministic("above", level - weights[..., 0])
        with pyro.plate("pupil", x.shape[1], dim=-1):
            mean = pyro.deterministic("mean", level + weights[..., 1] * x)
            pyro.sample("y", dist.Normal(mean, noise), obs=y)
    pyro.factor("nudge", -0.01 * tau)


# Where the guide has its latents: near the posterior of :func:`data`, and somewhat wider.
WEIGHTS = ([-0.1, 0.58], [0.55, 0.28])
LOG_TAU = (-0.19, 0.45)
LEVEL_SCALE = 0.5


def level_loc() -> Tensor:
    """Mean of each school's level, ``[schools, 1]``."""
    x, y = data()
    return 0.85 * (y - WEIGHTS[0][1] * x).mean(1, keepdim=True)


def guide(x: Tensor, y: Tensor | None = None, noise: float = NOISE) -> None:
    """Independent latents."""
    loc, scale = (x.new_tensor(numbers) for numbers in WEIGHTS)
    pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
    pyro.sample("tau", dist.LogNormal(x.new_tensor(LOG_TAU[0]), LOG_TAU[1]))
    with pyro.plate("school", len(x), dim=-2):
        pyro.sample("level", dist.Normal(level_loc().to(x)[: len(x)], LEVEL_SCALE))
