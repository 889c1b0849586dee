"""Logistic regression with ``AutoNormal``, on minibatches that are drawn anew in every step."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from sklearn.datasets import load_breast_cancer
from torch.nn import functional as F

from benchmarks.problem import ByHand, Problem, Program, leaves, tensor


class LogisticRegression(Problem):
    """On scikit-learn's breast cancer data, or on as many made-up rows as wanted.

    Args:
        seed: of the made-up rows.
        minibatch: rows in a step.
        rows: made-up rows; None for the real data, standardised.
    """

    scale = 0.1

    def __init__(self, seed: int = 0, minibatch: int = 64, rows: int | None = None) -> None:
        super().__init__(seed)
        if rows is None:
            features, labels = load_breast_cancer(return_X_y=True)
            self.features = ((features - features.mean(0)) / features.std(0)).astype(np.float32)
            self.labels = labels.astype(np.float32)
        else:
            self.features = self.random.standard_normal((rows, 30), dtype=np.float32)
            self.labels = (self.features[:, 0] > 0).astype(np.float32)
        self.minibatch = minibatch

    def by_hand(self, particles: int, device: str = "cpu") -> ByHand:
        x, y = tensor(self.features, device), tensor(self.labels, device)
        rows, minibatch = len(x), self.minibatch
        prior = torch.ones(31, device=device)
        prior[-1] = 5.0
        constant = -math.log(5.0)

        def loss(parameters, state):
            chosen = torch.randperm(rows, device=device)[:minibatch]
            noise = torch.randn(particles, 31, device=device)
            scale = F.softplus(parameters["raw_scale"])
            z = parameters["location"] + scale * noise
            logits = z[:, :30] @ x[chosen].T + z[:, 30:]
            seen = F.binary_cross_entropy_with_logits(
                logits, y[chosen].expand_as(logits), reduction="sum"
            )
            kl = 0.5 * ((z / prior).square() - noise.square()).sum() / particles - scale.log().sum()
            value = seen * (rows / minibatch / particles) + kl - constant
            return value, value, state

        start = {
            "location": np.zeros(31),
            "raw_scale": np.full(31, math.log(math.expm1(self.scale))),
        }
        return ByHand(leaves(start, device), loss)

    def in_pyro(self, device: str = "cpu") -> Program:
        x, y = tensor(self.features, device), tensor(self.labels, device)
        zeros, rows, minibatch = x.new_zeros(30), len(x), self.minibatch

        def model(x, y):
            weights = pyro.sample("weights", dist.Normal(zeros, 1.0).to_event(1))
            bias = pyro.sample("bias", dist.Normal(zeros[0], 5.0))
            with pyro.plate("data", rows, subsample_size=minibatch, device=x.device) as chosen:
                logits = (weights @ x[chosen].T).reshape((*bias.shape[:-1], minibatch)) + bias
                pyro.sample("y", dist.Bernoulli(logits=logits), obs=y[chosen])

        start = init_to_value(values={"weights": zeros, "bias": zeros[0]})
        guide = AutoNormal(model, init_loc_fn=start, init_scale=self.scale)
        return Program(model, guide, (x, y))

    def in_numpyro(self) -> Program:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as ndist
        from numpyro.infer import init_to_value
        from numpyro.infer.autoguide import AutoNormal

        def model(x, y):
            weights = numpyro.sample("weights", ndist.Normal(jnp.zeros(30), 1.0).to_event(1))
            bias = numpyro.sample("bias", ndist.Normal(0.0, 5.0))
            with numpyro.plate("data", len(x), subsample_size=self.minibatch) as chosen:
                logits = x[chosen] @ weights + bias
                numpyro.sample("y", ndist.Bernoulli(logits=logits), obs=y[chosen])

        start = init_to_value(values={"weights": jnp.zeros(30), "bias": jnp.zeros(())})
        guide = AutoNormal(model, init_loc_fn=start, init_scale=self.scale)
        return Program(model, guide, (jnp.asarray(self.features), jnp.asarray(self.labels)))
