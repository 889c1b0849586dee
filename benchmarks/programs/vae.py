"""A small variational autoencoder, 784-400-20: most of a step is arithmetic."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor
from benchmarks.programs.images import images, layer

_SIZES = {
    "encoder.0": (784, 400),
    "encoder.2": (400, 40),
    "decoder.0": (20, 400),
    "decoder.2": (400, 784),
}


class VAE(Problem):
    """Normal latents, a Bernoulli for each pixel, softplus in between; one batch, given.

    Args:
        seed: of the weights.
        batch: images in it.
        bound: the bound that is written by hand: ``"evidence"``, ``"closed form"`` (evidence with
            the divergence in closed form) or ``"iwae"``.
    """

    def __init__(self, seed: int = 0, batch: int = 128, bound: str = "evidence") -> None:
        super().__init__(seed)
        self.images, _ = images(batch)
        self.bound = bound
        self.weights: dict[str, np.ndarray] = {}
        for name, (inputs, outputs) in _SIZES.items():
            weight, bias = layer(self.random, inputs, outputs)
            self.weights |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        x = tensor(self.images, device)

        def dense(x, p, name):
            return F.linear(x, p[name + ".weight"], p[name + ".bias"])

        def loss(p, state):
            hidden = F.softplus(dense(x, p, "encoder.0"))
            mean, log_scale = dense(hidden, p, "encoder.2").chunk(2, -1)
            noise = torch.randn((particles, *mean.shape), device=device)
            z = mean + log_scale.exp() * noise
            logits = dense(F.softplus(dense(z, p, "decoder.0")), p, "decoder.2")
            if self.bound == "closed form":
                kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
                kl = kl.sum() * particles
            elif self.bound == "evidence":
                kl = 0.5 * (z.square() - noise.square()).sum() - particles * log_scale.sum()
            if self.bound != "iwae":
                seen = F.binary_cross_entropy_with_logits(
                    logits, x.expand_as(logits), reduction="sum"
                )
                value = (seen + kl) / particles
                return value, value, state
            seen = F.binary_cross_entropy_with_logits(
                logits, x.expand_as(logits), reduction="none"
            ).sum(-1)
            kl = 0.5 * (z.square() - noise.square()).sum(-1) - log_scale.sum(-1)
            value = -((-seen - kl).logsumexp(0) - np.log(particles)).sum()
            return value, value, state

        return ByHand(leaves(self.weights, device), loss)

    def in_pyro(self, device: str = "cpu") -> Program:
        encoder = nn.Sequential(nn.Linear(784, 400), nn.Softplus(), nn.Linear(400, 40))
        decoder = nn.Sequential(nn.Linear(20, 400), nn.Softplus(), nn.Linear(400, 784))
        for name, part in (("encoder.", encoder), ("decoder.", decoder)):
            part.to(device).load_state_dict(
                {k[8:]: tensor(v) for k, v in self.weights.items() if k.startswith(name)}
            )

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("images", len(x)):
                prior = dist.Normal(x.new_zeros(20), 1.0).to_event(1)
                z = pyro.sample("z", prior)
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("images", len(x)):
                mean, log_scale = encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

        return Program(model, guide, (tensor(self.images, device),))

    def in_numpyro(self) -> Program:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist

        def dense(x, name):
            weight = numpyro.param(f"{name}.weight", jnp.asarray(self.weights[f"{name}.weight"]))
            bias = numpyro.param(f"{name}.bias", jnp.asarray(self.weights[f"{name}.bias"]))
            return x @ weight.T + bias

        def model(x):
            with numpyro.plate("images", len(x)):
                prior = ndist.Normal(jnp.zeros(20), 1.0).to_event(1)
                z = numpyro.sample("z", prior)
                logits = dense(jax.nn.softplus(dense(z, "decoder.0")), "decoder.2")
                numpyro.sample("x", ndist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x):
            hidden = jax.nn.softplus(dense(x, "encoder.0"))
            mean, log_scale = jnp.split(dense(hidden, "encoder.2"), 2, -1)
            with numpyro.plate("images", len(x)):
                numpyro.sample("z", ndist.Normal(mean, jnp.exp(log_scale)).to_event(1))

        return Program(model, guide, (jnp.asarray(self.images),))
