"""Closed forms stand in for sampled densities exactly where they are exact, and nowhere else."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.infer.autoguide as autoguide
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi
from tests.draws import elbo, every_draw, expected_gradient, gradient

DATA = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def losses(model: Callable, guide: Callable, n: int = 5, **options) -> list[float]:
    objective = dsvi.PathwiseELBO(analytic_kl=True, **options)
    return [objective.loss(model, guide) for _ in range(n)]


def constant(values: list[float]) -> float:
    """The values' common value: a closed form draws nothing, so all must be the same."""
    assert max(values) - min(values) < 1e-10
    return values[0]


def prior_only(scale: float = 1.0, mask: Tensor | None = None) -> Callable:
    def model():
        heard = torch.tensor(True) if mask is None else mask
        with pyro.plate("d", 3), poutine.scale(scale=scale), poutine.mask(mask=heard):
            pyro.sample("z", dist.Normal(1.0, 2.0))

    return model


def normal_guide(scale: float = 1.0, mask: Tensor | None = None) -> Callable:
    def guide():
        heard = torch.tensor(True) if mask is None else mask
        with pyro.plate("d", 3), poutine.scale(scale=scale), poutine.mask(mask=heard):
            pyro.sample("z", dist.Normal(DATA, 0.5))

    return guide


def kl_of_prior_only() -> Tensor:
    return kl_divergence(dist.Normal(DATA, 0.5), dist.Normal(1.0, 2.0))


@pytest.mark.parametrize("particles", [1, 3])
def test_a_factorised_guide_needs_no_draw(particles):
    found = constant(losses(prior_only(), normal_guide(), num_particles=particles))
    assert found == pytest.approx(kl_of_prior_only().sum().item(), abs=1e-10)


def test_scale_and_mask_that_both_programs_have_act_on_the_divergence():
    mask = torch.tensor([True, False, True])
    found = constant(losses(prior_only(0.3, mask), normal_guide(0.3, mask)))
    assert found == pytest.approx(0.3 * kl_of_prior_only()[mask].sum().item(), abs=1e-10)


def test_scale_and_mask_that_differ_act_on_entropy_and_cross_entropy_apart():
    keep, hear = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    found = constant(losses(prior_only(0.3, keep), normal_guide(2.0, hear)))
    entropy = dist.Normal(DATA, 0.5).entropy()
    cross = -kl_of_prior_only() - entropy
    wanted = -(0.3 * cross[keep].sum() + 2.0 * entropy[hear].sum())
    assert found == pytest.approx(wanted.item(), abs=1e-10)
    # Pyro looks at the guide's scale and mask alone.
    theirs = TraceMeanField_ELBO().loss(prior_only(0.3, keep), normal_guide(2.0, hear))
    assert theirs == pytest.approx(2.0 * kl_of_prior_only()[hear].sum().item())


def conjugate_model():
    pyro.sample("w", dist.Normal(0.5, 2.0))
    pyro.sample("s", dist.LogNormal(0.2, 0.7))
    pyro.sample("v", dist.Normal(torch.zeros(3), 1.5).to_event(1))
    with pyro.plate("d", 3):
        pyro.sample("h", dist.Normal(DATA, 1.0))


def real_model():
    pyro.sample("w", dist.Normal(0.5, 2.0))
    pyro.sample("v", dist.Normal(torch.zeros(3), 1.5).to_event(1))
    with pyro.plate("d", 3):
        pyro.sample("h", dist.Normal(DATA, 1.0))


@pytest.mark.parametrize("particles", [1, 3])
def test_auto_normal_is_recognised_through_its_bijections(particles):
    guide = autoguide.AutoNormal(conjugate_model, init_scale=0.4)
    found = constant(losses(conjugate_model, guide, num_particles=particles))
    q = {name: dist.Normal(*guide._get_loc_and_scale(name)) for name in "wsvh"}
    wanted = (
        kl_divergence(q["w"], dist.Normal(0.5, 2.0))
        + kl_divergence(q["s"], dist.Normal(0.2, 0.7))  # both pushed through exp
        + kl_divergence(q["v"], dist.Normal(0.0, 1.5)).sum()
        + kl_divergence(q["h"], dist.Normal(DATA, 1.0)).sum()
    )
    assert found == pytest.approx(wanted.item(), abs=1e-10)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    "kind",
    [
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
        autoguide.AutoLowRankMultivariateNormal,
    ],
)
def test_a_joint_gaussian_guide_is_recognised_by_its_slices(kind, particles):
    guide = kind(real_model, init_scale=0.4)
    guide()
    for parameter in guide.parameters():  # off the factorised start
        parameter.data += 0.1 * torch.randn_like(parameter)
    found = constant(losses(real_model, guide, num_particles=particles))
    q = guide.get_posterior()
    joint = dist.MultivariateNormal(q.mean, q.variance.diag())
    if kind is not autoguide.AutoDiagonalNormal:
        joint = dist.MultivariateNormal(q.loc, covariance_matrix=q.covariance_matrix)
    loc = torch.cat([torch.tensor([0.5]), torch.zeros(3), DATA])
    scale = torch.tensor([2.0, 1.5, 1.5, 1.5, 1.0, 1.0, 1.0])
    prior = dist.MultivariateNormal(loc, scale.square().diag())
    assert found == pytest.approx(kl_divergence(joint, prior).item(), abs=1e-9)


def test_a_name_alone_does_not_make_a_law():
    """An auxiliary site called z_unconstrained whose bijection is not the support's own."""

    def model():
        pyro.sample("z", dist.LogNormal(0.0, 1.0))

    def guide():
        u = pyro.sample("z_unconstrained", dist.Normal(0.1, 0.5), infer={"is_auxiliary": True})
        z = torch.nn.functional.softplus(u)
        log_density = -torch.nn.functional.logsigmoid(u)
        pyro.sample("z", dist.Delta(z, log_density=log_density))

    values = torch.tensor(losses(model, guide, n=4000))
    u = torch.linspace(-6, 6, 4001)
    q = dist.Normal(0.1, 0.5)
    z = torch.nn.functional.softplus(u)
    log_ratio = (
        dist.LogNormal(0.0, 1.0).log_prob(z) + torch.nn.functional.logsigmoid(u) - q.log_prob(u)
    )
    truth = -torch.trapezoid(q.log_prob(u).exp() * log_ratio, u)
    error = values.std() / len(values) ** 0.5
    assert error > 0  # sampled, since its law was not recognised
    assert abs(values.mean() - truth) < 4 * error


class Crossed:
    """Model z1 then z2 given z1; guide z2 first and z1 given z2: z2's prior is downstream of z2."""

    def __init__(self) -> None:
        self.parameters = [
            torch.tensor(value, requires_grad=True) for value in (0.3, -0.4, 0.9, 0.5)
        ]

    def model(self):
        z1 = pyro.sample("z1", dist.Bernoulli(logits=self.parameters[3]))
        z2 = pyro.sample("z2", dist.Bernoulli(logits=2 * z1 - 0.7))
        pyro.sample("x", dist.Normal(z1 + 2 * z2, 1.0), obs=torch.tensor(1.7))

    def guide(self):
        a, b, c, _ = self.parameters
        z2 = pyro.sample("z2", dist.Bernoulli(logits=a))
        pyro.sample("z1", dist.Bernoulli(logits=b + c * z2))


class Straight(Crossed):
    """The guide in the model's order: every divergence is exact."""

    def guide(self):
        a, b, c, _ = self.parameters
        z1 = pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b + c * z1))


@pytest.mark.parametrize("program", [Crossed, Straight])
def test_score_function_sites_stay_unbiased(program):
    pair = program()
    objective = dsvi.ScoreFunctionELBO(analytic_kl=True)
    truth = gradient(elbo(pair.model, pair.guide, every_draw(z1=(), z2=())), pair.parameters)
    found = expected_gradient(
        objective, pair.model, pair.guide, pair.parameters, every_draw(z1=(), z2=())
    )
    torch.testing.assert_close(found, truth, atol=1e-10, rtol=0)


def test_a_divergence_lowers_the_variance_where_it_applies():
    pair = Straight()
    spread = {}
    for closed in (False, True):
        objective = dsvi.ScoreFunctionELBO(analytic_kl=closed)
        draws = [
            gradient(-objective.differentiable_loss(pair.model, pair.guide), pair.parameters)
            for _ in range(400)
        ]
        spread[closed] = torch.stack(draws)[:, :3].var(0).sum()
    assert spread[True] < spread[False]


def test_a_delta_guide_keeps_its_density():
    """A point mass has no divergence that could be used: MAP stays MAP."""

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))

    def guide():
        pyro.sample("z", dist.Delta(torch.tensor(0.7)))

    wanted = -(
        dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.7))
        + dist.Normal(0.7, 1.0).log_prob(torch.tensor(2.0))
    )
    assert constant(losses(model, guide)) == pytest.approx(wanted.item(), abs=1e-12)


def test_frozen_densities_and_closed_forms_go_together():
    """A divergence keeps its gradient in the guide's parameters; only sampled terms are frozen."""
    loc = torch.tensor(0.4, requires_grad=True)

    def model():
        pyro.sample("z", dist.Normal(1.0, 2.0))

    def guide():
        pyro.sample("z", dist.Normal(loc, 0.5))

    dsvi.STL(analytic_kl=True).differentiable_loss(model, guide).backward()
    assert loc.grad == pytest.approx((0.4 - 1.0) / 4, abs=1e-12)
