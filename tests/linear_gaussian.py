r"""A model whose evidence is known: z ~ N(0, I), x ~ N(W z + b, s² I), guide N(A x + c, diag(r²)).

Everything about it is Gaussian: the posterior, the evidence, the ELBO, and every tempered
distribution :math:`\pi_\beta \propto q^{1-\beta} p^\beta` between guide and posterior.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tests.scenarios import Group, Latent, Played, Scenario, _copies, f64, gauss, normal

Parameters = dict[str, Tensor]


def start(latent: int = 1, observed: int = 2) -> Parameters:
    """Parameters at which the guide is off in place and in width, fresh leaves in float64."""
    fixed = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=fixed, dtype=torch.float64)

    θ = {
        "W": 0.8 * draw(observed, latent),
        "b": 0.3 * draw(observed),
        "log_s": f64(-0.2),
        "A": 0.2 * draw(latent, observed),
        "c": 0.2 * draw(latent),
        "log_r": -0.5 + 0.1 * draw(latent),
    }
    return {name: value.requires_grad_() for name, value in θ.items()}


def put(parameters: Parameters) -> Parameters:
    """Put the parameters into the store; what the programs read."""
    pyro.clear_param_store()
    return {name: pyro.param(name, value.detach().clone()) for name, value in parameters.items()}


def model(x: Tensor, size: int | None = None) -> None:
    """The data are the rows of x; ``size`` is that of all data, where they are a minibatch."""
    W, b, s = pyro.param("W"), pyro.param("b"), pyro.param("log_s").exp()
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(f64(0.0), f64(1.0)).expand([W.shape[1]]).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T + b, s).to_event(1), obs=x)


def guide(x: Tensor, size: int | None = None) -> None:
    """The guide of :func:`model`."""
    loc, scale = x @ pyro.param("A").T + pyro.param("c"), pyro.param("log_r").exp()
    with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@dataclass(frozen=True)
class Exact:
    """One datum's Gaussians, at given parameters.

    Args:
        θ: the parameters.
        x: the datum, shape ``[observed]``.
    """

    θ: Parameters
    x: Tensor

    def log_evidence(self) -> Tensor:
        W, s = self.θ["W"], self.θ["log_s"].exp()
        covariance = W @ W.T + s**2 * torch.eye(len(W), dtype=torch.float64)
        return MultivariateNormal(self.θ["b"], covariance).log_prob(self.x)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Precision, and precision times mean, of p(z | x)."""
        W, s = self.θ["W"], self.θ["log_s"].exp()
        precision = torch.eye(W.shape[1], dtype=torch.float64) + W.T @ W / s**2
        return precision, W.T @ (self.x - self.θ["b"]) / s**2

    def guide(self) -> tuple[Tensor, Tensor]:
        """The same of the guide."""
        precision = (-2 * self.θ["log_r"]).exp().diag()
        return precision, precision @ (self.θ["A"] @ self.x + self.θ["c"])

    def tempered(self, beta: float) -> MultivariateNormal:
        """The normalised distribution in proportion to q^(1 - beta) p(z | x)^beta."""
        (P, h), (Q, g) = self.posterior(), self.guide()
        precision = (1 - beta) * Q + beta * P
        mean = torch.linalg.solve(precision, (1 - beta) * g + beta * h)
        return MultivariateNormal(mean, precision_matrix=precision)

    def mean_log_weight(self, at: MultivariateNormal) -> Tensor:
        """Expected log weight under a Gaussian: log evidence and two Gaussian cross-entropies."""
        of_posterior, of_guide = (
            self.expected_log_density(at, *gaussian)
            for gaussian in (self.posterior(), self.guide())
        )
        return self.log_evidence() + of_posterior - of_guide

    def log_moment(self, n: float) -> Tensor:
        """Log of the expected n-th power of the weight under the guide, where it is finite."""
        (P, h), (Q, g) = self.posterior(), self.guide()
        precision, shift = n * P + (1 - n) * Q, n * h + (1 - n) * g
        total = n * (self.log_evidence() + _log_scale(P, h)) + (1 - n) * _log_scale(Q, g)
        return total - _log_scale(precision, shift)

    @staticmethod
    def expected_log_density(at: MultivariateNormal, precision: Tensor, shift: Tensor) -> Tensor:
        """Expectation under a Gaussian of the log density of another."""
        second = at.covariance_matrix + torch.outer(at.mean, at.mean)
        quadratic = -0.5 * (precision * second).sum() + shift @ at.mean
        return quadratic + _log_scale(precision, shift)


def _log_scale(precision: Tensor, shift: Tensor) -> Tensor:
    """Log of the factor that makes exp(-z'Pz/2 + h'z) a density."""
    mean = torch.linalg.solve(precision, shift)
    log_det = torch.linalg.slogdet(precision).logabsdet
    return 0.5 * (log_det - len(shift) * math.log(2 * math.pi) - shift @ mean)


# -- one latent and one datum of two numbers, as a scenario ----------------------------------

_X = (0.9, -0.4)


def _lines_model(copies: Any = None) -> None:
    param = pyro.param
    with _copies(copies):
        z = gauss("z", f64(0.0), 0.0)
        for i, x in enumerate(_X):
            loc = param(f"W{i}") * z + param(f"b{i}")
            pyro.sample(f"x{i}", dist.Normal(loc, param("log_s").exp()), obs=f64(x))


def _lines_guide(copies: Any = None) -> None:
    param = pyro.param
    with _copies(copies):
        loc = param("A0") * _X[0] + param("A1") * _X[1] + param("c")
        pyro.sample("z", dist.Normal(loc, param("log_r").exp()))


def _lines(θ, noise):
    loc = θ["A0"] * _X[0] + θ["A1"] * _X[1] + θ["c"]
    z = loc + θ["log_r"].exp() * noise["z"]
    log_w = normal(z, 0.0, 0.0) - normal(z, loc, θ["log_r"])
    for i, x in enumerate(_X):
        log_w = log_w + normal(x, θ[f"W{i}"] * z + θ[f"b{i}"], θ["log_s"])
    return Played(torch.zeros_like(z), [Group(log_w)])


lines = Scenario(
    _lines_model,
    _lines_guide,
    {
        "W0": 0.7,
        "W1": -0.3,
        "b0": 0.1,
        "b1": 0.2,
        "log_s": 0.3,
        "A0": 0.3,
        "A1": -0.1,
        "c": 0.1,
        "log_r": -0.1,  # wider than the posterior: weights are bounded
    },
    {"z": Latent()},
    _lines,
    copies=True,
)


def exact_lines() -> Exact:
    """The closed forms of the scenario."""
    θ = {name: f64(value) for name, value in lines.start.items()}
    return Exact(
        {
            "W": torch.stack([θ["W0"], θ["W1"]]).unsqueeze(1),
            "b": torch.stack([θ["b0"], θ["b1"]]),
            "log_s": θ["log_s"],
            "A": torch.stack([θ["A0"], θ["A1"]]).unsqueeze(0),
            "c": θ["c"].reshape(1),
            "log_r": θ["log_r"].reshape(1),
        },
        f64(_X),
    )
