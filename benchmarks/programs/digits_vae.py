"""A variational autoencoder 64-100-16 of black and white digits, small enough to train often."""

from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

LATENTS, HIDDEN, PIXELS = 16, 100, 64
THRESHOLD = 7.5  # of intensities 0 to 16
HELD_OUT, SPLIT_SEED = 397, 0


class Digits(NamedTuple):
    """Images of 64 pixels, each 0 or 1.

    Attributes:
        train: those to learn from, shape ``[1400, 64]``.
        held_out: those to judge by, shape ``[397, 64]``.
    """

    train: Tensor
    held_out: Tensor


def digits() -> Digits:
    """scikit-learn's 1797 digits, 8 by 8; a pixel is 1 where its intensity is above the threshold.

    They are binarised once, without noise, and shuffled by a seed that no run changes.
    """
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits().data > THRESHOLD, dtype=torch.float32)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    return Digits(x[order[HELD_OUT:]], x[order[:HELD_OUT]])


class Autoencoder(nn.Module):
    """One hidden layer each way, tanh in between; normal latents, a Bernoulli for each pixel.

    Args:
        seed: of the first parameters, by torch's defaults.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENTS)
            )
            self.decoder = nn.Sequential(
                nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS)
            )

    def model(self, x: Tensor) -> None:
        """Images, each with latents of its own; those of a minibatch are a data set by itself."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Independent normals whose means and scales one network gives."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))
