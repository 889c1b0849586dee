"""Measure-valued derivatives of Normal and Poisson sites: exact by quadrature and by summation.

The finite laws are in ``test_discrete_estimators``.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from tests.hidden_noise import force
from tests.oracles import Force
from tests.scenarios import f64

LOC, SCALE, RATE = 0.3, 0.7, 1.6


class Nodes(NamedTuple):
    """Standard Normal draws, standard exponential noise and weights, each of shape ``[N]``."""

    normal: Tensor
    exponential: Tensor
    weight: Tensor


def interval(low: float, high: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(count)
    return (low + high) / 2 + (high - low) / 2 * x, (high - low) / 2 * w


def nodes() -> Nodes:
    """In polar coordinates, in which a Maxwell variable is the radius, and all is smooth."""
    r, wr = interval(0, 11, 60)
    angles = [interval(0, math.pi / 2, 24), interval(math.pi / 2, math.pi, 24)]
    angle, wa = (np.concatenate(x) for x in zip(*angles, strict=True))
    r, angle = (x.reshape(-1) for x in np.meshgrid(r, angle, indexing="ij"))
    density = r**2 * np.sin(angle) * np.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    weight = np.outer(wr, wa).reshape(-1) * density
    return Nodes(f64(r * np.cos(angle)), f64((r * np.sin(angle)) ** 2 / 2), f64(weight))


def cost(z: Tensor) -> Tensor:
    return 2 * torch.cos(1.3 * z + 0.4) + 0.3 * z**2


def expected(law: Any, draws: Tensor, weight: Tensor, prior: Any) -> Tensor:
    return (weight * (prior.log_prob(draws) + cost(draws) - law.log_prob(draws))).sum()


def steps(law, prior, z: Tensor, estimator: Any, frozen: bool = False) -> None:
    """One step with every draw as an element of a plate."""

    def model():
        with pyro.plate("copies", len(z)):
            pyro.factor("f", cost(pyro.sample("z", prior.expand([len(z)]))))

    def guide():
        with pyro.plate("copies", len(z)):
            pyro.sample("z", law())

    objective = dsvi.Objective(
        dsvi.bounds.Evidence(), estimators={"z": estimator}, frozen=frozen, vectorize_particles=True
    )
    with Force([{"z": z}]):
        objective.loss_and_grads(model, guide)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("learnt", "coupled"), [("loc", True), ("loc", False), ("scale", True), ("both", True)]
)
def test_normal(learnt, coupled, frozen):
    """The scale without coupling is in test_with_and_without_coupling."""
    points, prior = nodes(), dist.Normal(f64(-0.2), f64(1.1))
    start = {"loc": f64(LOC), "scale": f64(SCALE)}
    names = ["loc", "scale"] if learnt == "both" else [learnt]
    copies = {n: pyro.param(n, start[n].expand(len(points.weight)).clone()) for n in names}
    noise = points.exponential.expand(2 if coupled else 3, -1)
    estimator = force(dsvi.MeasureValued(coupled=coupled), "exponentials", [noise])

    def law():
        return dist.Normal(**{n: copies.get(n, start[n].expand(len(noise[0]))) for n in start})

    # A handler gives a Normal site its noise.
    steps(law, prior, points.normal, estimator, frozen)
    live = {n: v.clone().requires_grad_() for n, v in start.items()}
    x, w = interval(-11, 11, 80)
    draws = live["loc"] + live["scale"] * f64(x)
    weight = f64(w * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))
    expected(dist.Normal(**live), draws, weight, prior).backward()
    for name in names:
        actual = -(points.weight * copies[name].grad).sum()
        torch.testing.assert_close(actual, live[name].grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frozen", [False, True])
def test_poisson(frozen):
    z, prior = torch.arange(60, dtype=torch.float64), dist.Poisson(f64(2.2))
    rate = pyro.param("rate", f64(RATE).expand(len(z)).clone())
    steps(lambda: dist.Poisson(rate), prior, z, dsvi.MeasureValued(), frozen)
    live = f64(RATE).requires_grad_()
    law = dist.Poisson(live)
    weight = law.log_prob(z).exp()
    expected(law, z, weight, prior).backward()
    actual = -(weight.detach() * rate.grad).sum()
    torch.testing.assert_close(actual, live.grad, rtol=0, atol=1e-10)


LAWS = {
    "normal": (dist.Normal, {"loc": LOC, "scale": SCALE}),
    "normal in an event": (dist.Normal, {"loc": [LOC, -0.4], "scale": [SCALE, 0.9]}),
    "poisson": (dist.Poisson, {"rate": RATE}),
    "poisson in an event": (dist.Poisson, {"rate": [RATE, 0.8]}),
}


@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
@pytest.mark.parametrize("num_particles", [1, 2])
@pytest.mark.parametrize("name", LAWS)
def test_with_and_without_coupling(name, num_particles, bound):
    """Two ways to the same mean; copies in a plate give the standard error in one step."""
    family, start = LAWS[name]
    R = 6000
    event = len(np.shape(next(iter(start.values()))))

    def law(**parameters):
        return family(**parameters).to_event(event)

    def model():
        with pyro.plate("copies", R):
            z = pyro.sample("z", law(**{n: torch.ones_like(f64(v)) for n, v in start.items()}))
            pyro.factor("f", cost(z.sum(-1) if event else z))

    def gradients(coupled):
        pyro.clear_param_store()
        copies = {
            n: pyro.param(n, f64(v).expand(R, *np.shape(v)).clone()) for n, v in start.items()
        }

        def guide():
            with pyro.plate("copies", R):
                pyro.sample("z", law(**{n: pyro.param(n) for n in copies}))

        dsvi.Objective(
            bound,
            num_particles=num_particles,
            vectorize_particles=True,
            estimators={"z": dsvi.MeasureValued(coupled=coupled)},
        ).loss_and_grads(model, guide)
        return torch.cat([p.grad.reshape(R, -1) for p in copies.values()], -1)

    one, two = gradients(True), gradients(False)
    error = ((one.var(0) + two.var(0)) / R).sqrt()
    assert ((one.mean(0) - two.mean(0)) / error).abs().max() < 4
