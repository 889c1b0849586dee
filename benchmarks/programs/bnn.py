"""A Bayesian network 784-400-400-10 for labels, every weight a latent: moved bytes and draws."""

import math
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.nn import functional as F

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor
from benchmarks.programs.images import images, layer

_WIDTHS = (784, 400, 400, 10)
ROWS = 60_000  # of the data that the batch stands for


class BNN(Problem):
    """Standard normal weights, a mean-field normal guide, one batch, given.

    Args:
        seed: of the weights' first means.
        batch: images in it.
        local: whether the version by hand draws pre-activations in the weights' place (local
            reparameterisation) and takes the divergence in closed form.
    """

    scale = 0.02

    def __init__(self, seed: int = 0, batch: int = 128, local: bool = False) -> None:
        super().__init__(seed)
        self.images, self.labels = images(batch)
        self.local = local
        self.means: dict[str, np.ndarray] = {}
        for i, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
            weight, bias = layer(self.random, inputs, outputs)
            self.means |= {f"weight{i}": weight, f"bias{i}": bias}

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        x, labels = tensor(self.images, device), torch.tensor(self.labels, device=device)
        names = list(self.means)

        def loss(p, state):
            if self.local:
                scales = {n: p["log_scale_" + n].exp() for n in names}
                hidden = x
                for i in range(3):
                    w, b = f"weight{i}", f"bias{i}"
                    mean = F.linear(hidden, p[w], p[b])
                    square = F.linear(hidden.square(), scales[w].square(), scales[b].square())
                    hidden = mean + square.sqrt() * torch.randn_like(mean)
                    hidden = hidden.relu() if i < 2 else hidden
                kl = sum(
                    0.5 * (p[n].square() + scales[n].square() - 1).sum() - p["log_scale_" + n].sum()
                    for n in names
                )
            else:
                hidden, kl, drawn = x, 0.0, {}
                for n in names:
                    noise = torch.randn_like(p[n])
                    log_scale = p["log_scale_" + n]
                    drawn[n] = z = p[n] + log_scale.exp() * noise
                    kl = kl + 0.5 * (z.square() - noise.square()).sum() - log_scale.sum()
                for i in range(3):
                    hidden = F.linear(hidden, drawn[f"weight{i}"], drawn[f"bias{i}"])
                    hidden = hidden.relu() if i < 2 else hidden
            seen = F.cross_entropy(hidden, labels, reduction="sum")
            value = seen * (ROWS / len(x)) + kl
            return value, value, state

        start = dict(self.means)
        log_scale = math.log(self.scale)
        start |= {f"log_scale_{n}": np.full_like(a, log_scale) for n, a in self.means.items()}
        return ByHand(leaves(start, device), loss)

    def in_pyro(self, device: str = "cpu") -> Program:
        means = {name: tensor(array, device) for name, array in self.means.items()}
        log_first = math.log(self.scale)  # the program is not to hold on to this object's arrays

        def model(x, labels):
            drawn = {
                n: pyro.sample(n, dist.Normal(torch.zeros_like(m), 1.0).to_event(m.dim()))
                for n, m in means.items()
            }
            for i in range(3):
                x = F.linear(x, drawn[f"weight{i}"], drawn[f"bias{i}"])
                x = x.relu() if i < 2 else x
            with pyro.poutine.scale(scale=ROWS / len(labels)), pyro.plate("images", len(labels)):
                pyro.sample("label", dist.Categorical(logits=x), obs=labels)

        def guide(x, labels):
            for n, m in means.items():
                mean = pyro.param("mean_" + n, lambda m=m: m.clone())
                log_scale = pyro.param("log_scale_" + n, lambda m=m: torch.full_like(m, log_first))
                pyro.sample(n, dist.Normal(mean, log_scale.exp()).to_event(m.dim()))

        labels = torch.tensor(self.labels, device=device)
        return Program(model, guide, (tensor(self.images, device), labels))

    def in_numpyro(self) -> Program:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist

        def model(x, labels):
            drawn = {
                n: numpyro.sample(n, ndist.Normal(jnp.zeros(m.shape), 1.0).to_event(m.ndim))
                for n, m in self.means.items()
            }
            for i in range(3):
                x = x @ drawn[f"weight{i}"].T + drawn[f"bias{i}"]
                x = jax.nn.relu(x) if i < 2 else x
            scaled = numpyro.handlers.scale(scale=ROWS / len(labels))
            with scaled, numpyro.plate("images", len(labels)):
                numpyro.sample("label", ndist.Categorical(logits=x), obs=labels)

        def guide(x, labels):
            for n, m in self.means.items():
                mean = numpyro.param("mean_" + n, jnp.asarray(m))
                log_scale = numpyro.param("log_scale_" + n, jnp.full(m.shape, math.log(self.scale)))
                numpyro.sample(n, ndist.Normal(mean, jnp.exp(log_scale)).to_event(m.ndim))

        return Program(model, guide, (jnp.asarray(self.images), jnp.asarray(self.labels)))
