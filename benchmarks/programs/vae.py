"""A small variational autoencoder, 784-400-20, on batches of 128: most of a step is arithmetic.

The images are random bits: what a step costs does not depend on what they show.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from benchmarks.training import Program


def vae(batch: int = 128, pixels: int = 784, hidden: int = 400, latent: int = 20) -> Program:
    """Build it with fresh weights and a batch of random bits."""
    encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))
    decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, pixels))
    images = torch.bernoulli(torch.full((batch, pixels), 0.3))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latent), 1.0).expand([latent]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("images", len(x)):
            mean, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    return Program(model, guide, (images,))
