"""A sigmoid belief network: 200 Bernoulli latents, a linear layer each way."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor
from benchmarks.programs.images import images, layer

BITS = 200
DECAY = 0.9


class Bits(Problem):
    """Bits as the latents of a batch of images.

    Args:
        seed: of the weights.
        batch: images in it.
        bound: the estimator that is written by hand: ``"evidence"`` for the score function with a
            running mean, ``"vimco"`` for the importance-weighted bound with leave-one-out.
        baseline: whether the guide asks Pyro's ``TraceGraph_ELBO`` for a running mean.
    """

    def __init__(
        self, seed: int = 0, batch: int = 64, bound: str = "evidence", baseline: bool = True
    ) -> None:
        super().__init__(seed)
        self.images, _ = images(batch)
        self.bound, self.baseline = bound, baseline
        self.weights: dict[str, np.ndarray] = {}
        for name, sizes in (("encoder", (784, BITS)), ("decoder", (BITS, 784))):
            weight, bias = layer(self.random, *sizes)
            self.weights |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        x = tensor(self.images, device)

        def log_density(bits, logits):
            return -F.binary_cross_entropy_with_logits(
                logits,
                bits.expand(torch.broadcast_shapes(bits.shape, logits.shape)),
                reduction="none",
            ).sum(-1)

        def loss(p, state):
            logits = F.linear(x, p["encoder.weight"], p["encoder.bias"])
            with torch.no_grad():
                z = torch.bernoulli(logits.sigmoid().expand(particles, *logits.shape))
            log_q = log_density(z, logits.expand_as(z))
            pixels = F.linear(z, p["decoder.weight"], p["decoder.bias"])
            log_p = log_density(x.expand_as(pixels), pixels) - BITS * math.log(2)
            if self.bound == "vimco":
                log_w = log_p - log_q
                bound = log_w.logsumexp(0) - math.log(particles)
                credit = bound.detach() - _without_each(log_w.detach())
                value = -bound.sum()
                return value - (credit * log_q).sum(), value, state
            credit = (log_p - log_q).detach()
            mean = state["total"] / state["weight"].clamp_min(1e-12)
            value = -(log_p - log_q.detach()).sum() / particles
            surrogate = value - ((credit - mean) * log_q).sum() / particles
            keep = {
                "total": torch.lerp(state["total"], credit.mean(), 1 - DECAY),
                "weight": torch.lerp(state["weight"], torch.ones_like(mean), 1 - DECAY),
            }
            return surrogate, value, keep

        nothing = torch.zeros((), device=device)
        state = {} if self.bound == "vimco" else {"total": nothing, "weight": nothing.clone()}
        return ByHand(leaves(self.weights, device), loss, state)

    def in_pyro(self, device: str = "cpu") -> Program:
        encoder, decoder = nn.Linear(784, BITS), nn.Linear(BITS, 784)
        for name, part in (("encoder.", encoder), ("decoder.", decoder)):
            part.to(device).load_state_dict(
                {k[8:]: tensor(v) for k, v in self.weights.items() if k.startswith(name)}
            )
        running = {"use_decaying_avg_baseline": True, "baseline_beta": DECAY}
        infer = {"baseline": running} if self.baseline else {}

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("images", len(x)):
                z = pyro.sample("z", dist.Bernoulli(logits=x.new_zeros(BITS)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("images", len(x)):
                law = dist.Bernoulli(logits=encoder(x)).to_event(1)
                pyro.sample("z", law, infer=infer)

        return Program(model, guide, (tensor(self.images, device),))

    def in_numpyro(self) -> Program:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist

        def dense(x, name):
            weight = numpyro.param(f"{name}.weight", jnp.asarray(self.weights[f"{name}.weight"]))
            bias = numpyro.param(f"{name}.bias", jnp.asarray(self.weights[f"{name}.bias"]))
            return x @ weight.T + bias

        def model(x):
            with numpyro.plate("images", len(x)):
                prior = ndist.Bernoulli(logits=jnp.zeros(BITS)).to_event(1)
                z = numpyro.sample("z", prior).astype(x.dtype)
                pixels = ndist.Bernoulli(logits=dense(z, "decoder")).to_event(1)
                numpyro.sample("x", pixels, obs=x)

        def guide(x):
            logits = dense(x, "encoder")
            with numpyro.plate("images", len(x)):
                numpyro.sample("z", ndist.Bernoulli(logits=logits).to_event(1))

        return Program(model, guide, (jnp.asarray(self.images),))


def _without_each(log_w):
    """The bound with each log weight replaced by the mean of the others: ``[K, batch]``."""
    number = len(log_w)
    others = (log_w.sum(0) - log_w) / (number - 1)
    own = torch.eye(number, device=log_w.device, dtype=torch.bool).unsqueeze(-1)
    swapped = torch.where(own, others.unsqueeze(1), log_w.unsqueeze(0))
    return swapped.logsumexp(1) - math.log(number)
