r"""Exact expectations, by visiting every joint draw of the particles.

Two numbers are computed for a scenario, a bound and K particles, by ways that share nothing:

- the truth: :math:`J = \sum_{z_1 \dots z_K} \prod_k q(z_k) \, B(\ell_1, \dots, \ell_K)` from the
  densities written by hand, and its gradient by autograd;
- the expectation of the estimate: the objective is run at each joint draw, which a handler around
  it forces, and what it returns is weighted by the draw's probability.

A Normal site is drawn at the nodes of Gauss-Hermite quadrature.  Both sides use the same nodes, so
that what follows from differentiating through the draws holds exactly at any number of nodes; what
takes an integration by parts (frozen densities, the score of a Normal) holds up to the error of the
quadrature, which a test measures.
"""

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from tests.scenarios import Latent, Played, Scenario, Values

Bound = Callable[[Tensor], Tensor]  # by hand: [K, ...] -> [...]


def evidence(log_w: Tensor) -> Tensor:
    return log_w.sum(0) / len(log_w)


def renyi(alpha: float) -> Bound:
    def value(log_w: Tensor) -> Tensor:
        return (log_w * (1 - alpha)).exp().mean(0).log() / (1 - alpha)

    return value


class Answer(NamedTuple):
    """A bound in nats and its gradient, by parameter."""

    value: Tensor
    gradient: dict[str, Tensor]


class Draws(NamedTuple):
    """All S draws of one particle, by site ``[S, *shape]``, and their log weights ``[S]``."""

    values: dict[str, Tensor]
    log_weight: Tensor


def every_draw(scenario: Scenario, nodes: int) -> Draws:
    """Every joint value of the sites of one particle that has positive probability."""
    columns = [_every_value(latent, nodes) for latent in scenario.latents.values()]
    index = torch.cartesian_prod(*(torch.arange(len(values)) for values, _ in columns))
    index = index.reshape(-1, len(columns))
    log_weight = sum(log_w[i] for (_, log_w), i in zip(columns, index.T, strict=True))
    values = {
        name: column[i]
        for name, (column, _), i in zip(scenario.latents, columns, index.T, strict=True)
    }
    possible = scenario.play(scenario.parameters(), values).log_q > -math.inf
    return Draws({name: v[possible] for name, v in values.items()}, log_weight[possible])


def _every_value(latent: Latent, nodes: int) -> tuple[Tensor, Tensor]:
    if latent.support is None:
        assert not latent.shape, "Normal sites stand outside plates, or in that of the copies"
        noise, weight = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(nodes))
        return noise, (weight / math.sqrt(2 * math.pi)).log()
    elements = math.prod(latent.shape)
    joint = torch.tensor(list(itertools.product(range(len(latent.support)), repeat=elements)))
    values = latent.support[joint].reshape(-1, *latent.shape, *latent.support.shape[1:])
    return values, torch.zeros(len(values), dtype=torch.float64)


def _joint(scenario: Scenario, draws: Draws, played: Played, num_particles: int):
    """Index ``[K, R]`` of every joint draw of the particles, and its probability ``[R]``."""
    each = torch.arange(len(draws.log_weight))
    index = torch.cartesian_prod(*[each] * num_particles).reshape(-1, num_particles).T
    probability = (played.log_q + draws.log_weight).exp()
    torch.testing.assert_close(probability.sum().detach(), torch.ones((), dtype=torch.float64))
    return index, probability[index].prod(0)


def truth(scenario: Scenario, bound: Bound, num_particles: int, nodes: int = 3) -> Answer:
    """The objective and its gradient, from the densities written by hand."""
    parameters = scenario.parameters()
    draws = every_draw(scenario, nodes)
    played = scenario.play(parameters, draws.values)
    index, probability = _joint(scenario, draws, played, num_particles)
    total = torch.zeros(index.shape[1], dtype=torch.float64)
    for log_w, weight in played.groups:
        value = bound(log_w[index])
        total = total + weight * value.reshape(len(value), -1).sum(-1)
    expected = (probability * total).sum()
    gradient = torch.autograd.grad(expected, list(parameters.values()))
    return Answer(expected.detach(), dict(zip(parameters, gradient, strict=True)))


class Force(Messenger):
    """Gives latent sites their values: a discrete site as told, a Normal one by its noise.

    A plate's minibatch is drawn at a site of the plate's name, and can be given as well.

    Args:
        particles: values by site, one mapping for each run of the guide that is to come.
    """

    def __init__(self, particles: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.particles = particles
        self.visits: dict[str, int] = {}
        self.run = -1
        self.seen: set[str] = set()

    def _pyro_sample(self, msg):
        name = msg["name"]
        if msg["done"] or msg["is_observed"] or name not in self.particles[0]:
            return
        if self.run < 0 or name in self.seen:  # the first site again: the next particle
            # All over again after the last one, as a step begins again that counts plates first.
            self.run, self.seen = (self.run + 1) % len(self.particles), set()
        self.seen.add(name)
        given, q = self.particles[self.run][name], msg["fn"]
        if hasattr(q, "shape"):  # not a minibatch
            # Drawn for each value of a site upstream, a draw has the same noise in all of them.
            same = given.numel() == q.shape().numel()
            given = given.reshape(q.shape()) if same else given.expand(q.shape())
        msg["value"] = q.loc + q.scale * given if isinstance(_core(q), _NORMAL) else given
        msg["done"] = True


class _Parameters(Messenger):
    """Notes the names of the parameters that a program asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_param(self, msg):
        self.names.add(msg["name"])


class Explore(Messenger):
    """Gives each discrete draw, all of its elements together, the joint value that a path says.

    Args:
        path: which joint value each draw takes, in order; the first one where the path ends.

    Attributes:
        path: the path that was taken.
        options: how many joint values each draw had.
        log_q: log probability of the path, a scalar.
    """

    def __init__(self, path: list[int]) -> None:
        super().__init__()
        self.given = path
        self.path: list[int] = []
        self.options: list[int] = []
        self.log_q = torch.zeros((), dtype=torch.float64)

    def _pyro_sample(self, msg):
        q = msg["fn"]
        if msg["done"] or msg["is_observed"] or not hasattr(q, "batch_shape"):
            return
        while hasattr(q, "base_dist"):  # neither masked nor with its elements tied together
            q = q.base_dist
        support = q.enumerate_support(expand=False)
        support = support.reshape(len(support), *q.event_shape)
        elements = q.expand(msg["fn"].batch_shape + q.batch_shape[q_start(msg["fn"], q) :])
        count = elements.batch_shape.numel()
        self.options.append(len(support) ** count)
        choice = self.given[len(self.path)] if len(self.path) < len(self.given) else 0
        self.path.append(choice)
        digits = [choice // len(support) ** i % len(support) for i in range(count)]
        msg["value"] = support[digits].reshape(elements.shape())
        msg["done"] = True
        self.log_q = self.log_q + elements.log_prob(msg["value"]).detach().sum()


def q_start(outer, inner) -> int:
    """Where the dimensions begin that a wrapper has moved from the batch into the event."""
    return len(inner.batch_shape) - (outer.event_dim - inner.event_dim)


_NORMAL = pyro.distributions.Normal


def _core(q):
    while hasattr(q, "base_dist"):
        q = q.base_dist
    return q


class Exact:
    """Runs an objective at given draws, from the same state of its baselines each time.

    Args:
        objective: the objective.
        scenario: the programs.
        side_by_side: whether the objective runs its particles in a plate.
        warm_up: random steps to take first, so that the baselines have learnt something.
    """

    def __init__(self, objective, scenario: Scenario, *, side_by_side: bool, warm_up: int = 3):
        self.objective = objective
        self.scenario = scenario
        self.side_by_side = side_by_side
        self.parameters: dict[str, Tensor] = {}
        self._set_parameters()
        for _ in range(warm_up):
            objective.loss_and_grads(scenario.model, scenario.guide)
        self.state = copy.deepcopy(objective.state_dict())

    def _set_parameters(self, *shape: int) -> None:
        pyro.clear_param_store()
        self.parameters = {
            name: pyro.param(name, value.detach().expand((*shape, *value.shape)).clone())
            for name, value in self.scenario.parameters().items()
        }

    def step(self, values: Values, copies: int | None = None) -> Answer:
        """One step at the particles' draws, ``[K, ...]`` by site."""
        model, guide = self.scenario.model, self.scenario.guide
        if copies is not None:  # programs with a plate more: to the objective they are others
            self._set_parameters(copies)
            model, guide = partial(model, copies), partial(guide, copies)
        particles = [dict(values)]
        if not self.side_by_side:
            count = len(next(iter(values.values())))
            particles = [{n: v[k] for n, v in values.items()} for k in range(count)]
        with Force(particles):
            return self._answer(model, guide)

    def _answer(self, model, guide) -> Answer:
        """One step from the state after the warm-up, under whatever handlers are around."""
        self.objective.load_state_dict(copy.deepcopy(self.state))
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self.objective.loss_and_grads(model, guide)
        gradient = {
            name: torch.zeros_like(p) if p.grad is None else -p.grad
            for name, p in self.parameters.items()
        }
        return Answer(torch.tensor(-loss, dtype=torch.float64), gradient)

    def every_step(self, nodes: int = 3) -> list[tuple[Tensor, Answer]]:
        """Every joint draw's probability, and what the objective makes of it."""
        draws, index, probability = self._joint(nodes)
        return [
            (p, self.step({name: v[i] for name, v in draws.values.items()}))
            for p, i in zip(probability, index.T, strict=True)
        ]

    def expectation(self, nodes: int = 3) -> Answer:
        """Expectation of the estimated bound and gradient."""
        steps = self.every_step(nodes)
        value = sum(p * answer.value for p, answer in steps)
        gradient = {n: sum(p * answer.gradient[n] for p, answer in steps) for n in self.parameters}
        return Answer(value, gradient)

    def explored(self) -> list[tuple[Tensor, Answer]]:
        """Every outcome of whatever the objective itself draws: its probability and the step.

        The objective decides how often it draws a site; all draws must be discrete.
        """
        steps, paths = [], [[]]
        while paths:
            path = paths.pop()
            with Explore(path) as explore:
                answer = self._answer(self.scenario.model, self.scenario.guide)
            steps.append((explore.log_q.exp(), answer))
            for i in range(len(path), len(explore.path)):
                paths += [[*explore.path[:i], other] for other in range(1, explore.options[i])]
        return steps

    def explored_expectation(self) -> Answer:
        """Expectation over all outcomes of what the objective itself draws."""
        steps = self.explored()
        total = sum(p for p, _ in steps)
        torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))
        value = sum(p * answer.value for p, answer in steps)
        gradient = {n: sum(p * answer.gradient[n] for p, answer in steps) for n in self.parameters}
        return Answer(value, gradient)

    def expectation_in_copies(self, nodes: int) -> dict[str, Tensor]:
        """Expectation of the gradient from one step, each joint draw being an element of a plate.

        Every element has parameters of its own, so that its gradient can be told from the others'.
        """
        draws, index, probability = self._joint(nodes)
        copies = len(probability)
        answer = self.step({name: v[index] for name, v in draws.values.items()}, copies=copies)
        return {name: probability @ g for name, g in answer.gradient.items()}

    def _joint(self, nodes: int):
        draws = every_draw(self.scenario, nodes)
        with torch.no_grad():
            played = self.scenario.play(self.scenario.parameters(), draws.values)
            index, probability = _joint(self.scenario, draws, played, self.objective.num_particles)
        return draws, index, probability


def assert_same(actual: Answer, expected: Answer, tolerance: float = 1e-10) -> None:
    """Value and every gradient agree within an absolute tolerance."""
    torch.testing.assert_close(actual.value, expected.value, rtol=0, atol=tolerance)
    assert_same_gradient(actual.gradient, expected.gradient, tolerance)


def assert_same_gradient(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10
) -> None:
    """Every parameter's gradient agrees within an absolute tolerance."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def truth_apart(
    scenario: Scenario,
    model: Bound,
    num_particles: int,
    *,
    guide: Bound | None = None,
    weights: Callable[[Tensor], Tensor] | None = None,
    nodes: int = 3,
) -> Answer:
    """What model and guide receive where the guide follows something of its own.

    Args:
        scenario: the programs.
        model: the bound that the model climbs.
        num_particles: K.
        guide: the bound that the guide climbs, or
        weights: those of its log density, ``[K, ...] -> [K, ...]``; for discrete programs.
        nodes: nodes for each Normal site.
    """
    by_model = truth(scenario, model, num_particles, nodes)
    by_guide = (
        truth(scenario, guide, num_particles, nodes).gradient
        if guide is not None
        else _weighed_scores(scenario, weights, num_particles)
    )
    mine = parameters_of_guide(scenario)
    gradient = {n: by_guide[n] if n in mine else g for n, g in by_model.gradient.items()}
    return Answer(by_model.value, gradient)


def parameters_of_guide(scenario: Scenario) -> set[str]:
    """Names of the parameters that the guide uses."""
    pyro.clear_param_store()
    for name, value in scenario.parameters().items():
        pyro.param(name, value.detach())
    used = _Parameters()
    with used:
        for _ in range(20):  # whatever branches it takes
            scenario.guide()
    return used.names


def _weighed_scores(scenario: Scenario, weights, num_particles: int) -> dict[str, Tensor]:
    """Expected sum of f_k grad log q(z_k): at given draws the guide moves log w by -log q alone."""
    parameters = scenario.parameters()
    draws = every_draw(scenario, 1)
    played = scenario.play(parameters, draws.values)
    index, probability = _joint(scenario, draws, played, num_particles)
    total = torch.zeros((), dtype=torch.float64)
    for log_w, weight in played.groups:
        each = log_w[index]
        f = weights(each.detach())
        terms = (f * -each).sum(0)
        total = (
            total + weight * (probability.detach() * terms.reshape(len(terms), -1).sum(-1)).sum()
        )
    gradient = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, gradient, strict=True))
