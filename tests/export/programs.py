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


def guide(x: Tensor, y: Tensor | None = None, noise: float = NOISE) -> None:
    """Independent latents, near the posterior of :func:`data`."""
    normal = dist.Normal(x.new_tensor([0.0, 0.5]), x.new_tensor([0.35, 0.2]))
    pyro.sample("weights", normal.to_event(1))
    pyro.sample("tau", dist.LogNormal(x.new_tensor(-0.1), 0.3))
    with pyro.plate("school", x.shape[0], dim=-2):
        _, y = data()
        pyro.sample("level", dist.Normal(0.85 * y.mean(1, keepdim=True).to(x)[: len(x)], 0.38))
