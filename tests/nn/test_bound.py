"""The bound of a bayesianized network is the bound: summed divergences, a likelihood scaled N/M."""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi

N, NOISE = 7, 0.6


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


class Given(Messenger):
    """Sets values from outside, as a draw would."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class Regression:
    """y = w x + b + noise, by a torch.nn.Linear."""

    def __init__(self) -> None:
        self.x, self.y = torch.randn(N, 2), torch.randn(N)
        self.network = dsvi.nn.bayesianize(torch.nn.Linear(2, 1), dist.Normal(0.2, 1.5))
        self.loc = {"weight": torch.tensor([[0.4, -1.0]]), "bias": torch.tensor([0.3])}
        self.scale = {"weight": torch.tensor([[0.5, 0.2]]), "bias": torch.tensor([0.7])}

    def model(self, size: int | None = None) -> None:
        with pyro.plate("data", N, subsample_size=size, dim=-1) as rows:
            self.rows = rows
        mean = self.network(self.x[rows]).squeeze(-1)
        with pyro.plate("data", N, subsample=rows, dim=-1):
            pyro.sample("y", dist.Normal(mean, NOISE), obs=self.y[rows])

    def guide(self, size: int | None = None) -> None:
        for name, loc in self.loc.items():
            pyro.sample(name, dist.Normal(loc, self.scale[name]).to_event(loc.dim()))

    def divergence(self) -> torch.Tensor:
        q = [dist.Normal(self.loc[n], self.scale[n]) for n in self.loc]
        return torch.stack([kl_divergence(x, dist.Normal(0.2, 1.5)).sum() for x in q]).sum()

    def closed_form(self) -> torch.Tensor:
        """Expected log likelihood minus divergence."""
        mean = self.x @ self.loc["weight"][0] + self.loc["bias"]
        variance = self.x.square() @ self.scale["weight"][0] ** 2 + self.scale["bias"] ** 2
        square = (self.y - mean).square() + variance
        seen = -0.5 * square / NOISE**2 - math.log(NOISE) - 0.5 * math.log(2 * math.pi)
        return seen.sum() - self.divergence()

    def sigma_points(self):
        """Points at which the mean of any quadratic is its Gaussian expectation."""
        flat = [(n, i) for n, loc in self.loc.items() for i in range(loc.numel())]
        for name, i in flat:
            for sign in (1, -1):
                values = {n: loc.clone() for n, loc in self.loc.items()}
                step = sign * math.sqrt(len(flat)) * self.scale[name].flatten()[i]
                values[name].view(-1)[i] += step
                yield values


def test_the_bound_of_a_linear_network_is_the_closed_form():
    problem, objective = Regression(), dsvi.PathwiseELBO(analytic_kl=True)
    losses = []
    for values in problem.sigma_points():
        with Given(values):
            losses.append(objective.loss(problem.model, problem.guide))
    assert sum(losses) / len(losses) == pytest.approx(-problem.closed_form().item(), abs=1e-10)


@pytest.mark.parametrize("size", [1, 3, N])
def test_the_likelihood_of_a_minibatch_is_scaled_and_the_divergence_is_not(size):
    problem, objective = Regression(), dsvi.PathwiseELBO(analytic_kl=True)
    values = next(iter(problem.sigma_points()))
    with Given(values):
        found = objective.loss(problem.model, problem.guide, size)
    rows = problem.rows
    mean = problem.x[rows] @ values["weight"][0] + values["bias"]
    seen = dist.Normal(mean, NOISE).log_prob(problem.y[rows]).sum()
    wanted = problem.divergence() - N / size * seen
    assert found == pytest.approx(wanted.item(), abs=1e-10)


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles_average_the_same_bound(vectorize):
    """By the values that were drawn: each particle's own."""
    problem = Regression()
    objective = dsvi.PathwiseELBO(num_particles=4, vectorize_particles=vectorize, analytic_kl=True)
    drawn: list[dict] = []

    class Watch(Messenger):
        def _pyro_post_sample(self, msg) -> None:
            if msg["name"] in problem.loc and type(msg["fn"].base_dist.loc) is torch.Tensor:
                drawn[-1].setdefault(msg["name"], msg["value"].detach())

    def guide(size=None):
        drawn.append({})
        with Watch():
            problem.guide(size)

    with poutine.block():
        found = objective.loss(problem.model, guide)
    if vectorize:
        last = drawn[-1]  # the first runs find out the number of plates
        w, b = last["weight"].reshape(4, 2), last["bias"].reshape(4, 1)
    else:
        w = torch.stack([d["weight"].reshape(2) for d in drawn[-4:]])
        b = torch.stack([d["bias"].reshape(1) for d in drawn[-4:]])
    seen = dist.Normal(w @ problem.x.T + b, NOISE).log_prob(problem.y).sum(-1)
    wanted = problem.divergence() - seen.mean()
    assert found == pytest.approx(wanted.item(), abs=1e-10)


def test_warmed_up_the_divergence_alone_is_scaled():
    problem, objective = Regression(), dsvi.PathwiseELBO(analytic_kl=True)
    values = next(iter(problem.sigma_points()))
    seen = -objective_at(objective, problem, values, 1.0) + problem.divergence().item()
    ramp = dsvi.handlers.warm_up(4, wait=1)
    model, guide = ramp(problem.model), ramp(problem.guide)
    for factor in (0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0):
        with Given(values):
            found = objective.loss(model, guide)
        wanted = factor * problem.divergence().item() - seen
        assert found == pytest.approx(wanted, abs=1e-10)
        ramp.advance()


def objective_at(objective, problem, values, factor: float) -> float:
    with Given(values):
        return objective.loss(problem.model, problem.guide)
