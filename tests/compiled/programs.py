"""Programs that a recorded step has to get right, each built anew from a seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam, PyroSample, pyro_method
from torch.distributions import constraints


class Pair(NamedTuple):
    """A model, a guide and their arguments."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()


def normal() -> Pair:
    """Two linked Normal sites, constrained parameters."""
    data = torch.randn(6) + 1

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(mean, scale), obs=data)

    def guide():
        loc = pyro.param("loc", torch.tensor(0.1))
        size = pyro.param("size", torch.tensor(0.5), constraint=constraints.positive)
        mean = pyro.sample("mean", dist.Normal(loc, size))
        share = pyro.param("share", torch.tensor(0.4), constraint=constraints.unit_interval)
        pyro.sample("scale", dist.LogNormal(0.1 * mean, share))

    return Pair(model, guide)


def bits() -> Pair:
    """A discrete latent for each datum, and a shared one."""
    data = torch.randn(5) * 2

    def model():
        shift = pyro.sample("shift", dist.Bernoulli(0.4))
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(2 * z - shift, 1.0), obs=data)

    def guide():
        logit = pyro.param("logit", torch.tensor(0.3))
        logits = pyro.param("logits", torch.zeros(5))
        shift = pyro.sample("shift", dist.Bernoulli(logits=logit))
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Bernoulli(logits=logits + 0.2 * shift))

    return Pair(model, guide)


def mixed() -> Pair:
    """A discrete site above a Normal one, a categorical one and a Gamma beside them."""

    def model():
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        z = pyro.sample("z", dist.Normal(k.float(), 1.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        pyro.sample("x", dist.Normal(z, rate + 0.5), obs=torch.tensor(1.3))

    def guide():
        k = pyro.sample("k", dist.Categorical(logits=pyro.param("logits", torch.zeros(3))))
        loc = pyro.param("loc", torch.zeros(3))
        pyro.sample("z", dist.Normal(loc[k], 0.8))
        shape = pyro.param("shape", torch.tensor(2.0), constraint=constraints.positive)
        pyro.sample("rate", dist.Gamma(shape, 1.5))

    return Pair(model, guide)


def subsampled() -> Pair:
    """A plate that draws a new minibatch in each step."""
    x, y = torch.randn(40, 3), torch.randint(2, (40,)).float()

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=8) as rows:
            logits = (x[rows] * w.unsqueeze(-2)).sum(-1)
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y[rows])

    return Pair(model, autoguide.AutoNormal(model), (x, y))


class _Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x, y=None):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.noise), obs=y)


def module() -> Pair:
    """A PyroModule with a sampled weight, a learnt bias and a constrained parameter."""
    model = _Regression()
    return Pair(model, autoguide.AutoNormal(model), (torch.randn(7, 3), torch.randn(7)))


class _Encoded(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = torch.nn.Linear(2, 4)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh())
        self.head = torch.nn.Linear(5, 4)

    @pyro_method
    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    @pyro_method
    def guide(self, x):
        pyro.module("encoder", self.encoder)
        pyro.module("head", self.head)
        with pyro.plate("data", len(x)):
            loc, scale = self.head(self.encoder(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def amortised() -> Pair:
    """An encoder and a decoder."""
    both = _Encoded()
    return Pair(both.model, both.guide, (torch.randint(2, (6, 4)).float(),))


def auto(kind: Callable[..., Any]) -> Callable[[], Pair]:
    """A hierarchical model under an automatic guide."""

    def build() -> Pair:
        data = torch.randn(4)

        def model():
            mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
            spread = pyro.sample("spread", dist.HalfCauchy(2.0))
            with pyro.plate("groups", 4):
                effect = pyro.sample("effect", dist.Normal(mean, spread))
                pyro.sample("x", dist.Normal(effect, 1.0), obs=data)

        return Pair(model, kind(model))

    return build


PROGRAMS = {p.__name__: p for p in (normal, bits, mixed, subsampled, module, amortised)}
GUIDES = {
    kind.__name__: auto(kind)
    for kind in (
        autoguide.AutoNormal,
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
        autoguide.AutoLowRankMultivariateNormal,
        autoguide.AutoDelta,
    )
}
