"""Everything that holds in a Pyro program holds here.

A reparameterised program gives the same loss and the same gradients as Pyro's own objectives under
the same seed; a program with discrete latents the same expectations, by summation over every draw.
Where Pyro is wrong or silent, the oracle is ours.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    autoguide,
)
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor

import pyro_dsvi as dsvi
from tests.draws import Drawn, every_draw, expected_gradient, gradient, gradient_at
from tests.draws import elbo as exact_elbo

Program = tuple[Callable[..., Any], Callable[..., Any]]

DATA = torch.tensor([0.9, -0.2, 1.4, 0.3, -1.1, 0.6], dtype=torch.float64)
SEED = 7


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


def step(objective, model, guide, *args, **kwargs) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step from a fixed seed, and no trace of it."""
    pyro.set_rng_seed(SEED)
    with poutine.trace(param_only=True) as capture:
        loss = objective.loss_and_grads(model, guide, *args, **kwargs)
    gradients = {}
    for name, site in capture.trace.nodes.items():
        leaf = site["value"].unconstrained()
        gradients[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
        leaf.grad = None
    return float(loss), gradients


def assert_same_step(ours, theirs, model, guide, *args, atol=1e-10, **kwargs) -> None:
    loss, gradients = step(ours, model, guide, *args, **kwargs)
    expected_loss, expected = step(theirs, model, guide, *args, **kwargs)
    assert loss == pytest.approx(expected_loss, abs=atol, rel=atol)
    assert expected
    assert gradients.keys() == expected.keys()
    assert any(g.abs().max() > 1e-3 for g in expected.values())
    for name, g in expected.items():
        torch.testing.assert_close(gradients[name], g, atol=atol, rtol=atol, msg=name)


# -- reparameterised programs --------------------------------------------------------------------


def q(name: str, *shape: int) -> Any:
    """A Normal guide distribution with parameters of its own."""
    start = torch.linspace(0.2, 0.5, max(1, torch.Size(shape).numel())).reshape(shape)
    loc = pyro.param(f"{name} loc", start.clone)
    scale = pyro.param(f"{name} scale", lambda: 0.5 + start, constraint=constraints.positive)
    return dist.Normal(loc, scale)


def plain() -> Program:
    def model():
        sigma = pyro.param("sigma", torch.tensor(0.7), constraint=constraints.positive)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(z, sigma), obs=DATA)

    def guide():
        pyro.sample("z", q("z"))

    return model, guide


def nested_plates() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        columns = pyro.plate("columns", 3, dim=-1)
        with pyro.plate("rows", 2, dim=-2):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            with columns:
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 0.5), obs=DATA.reshape(2, 3))
        with columns:
            pyro.sample("y", dist.Normal(mu, 0.5), obs=DATA[:3])

    def guide():
        mu = pyro.sample("mu", q("mu"))
        with pyro.plate("rows", 2, dim=-2):
            a = pyro.sample("a", q("a", 2, 1))
            with pyro.plate("columns", 3, dim=-1):
                law = q("b", 2, 3)
                pyro.sample("b", dist.Normal(law.loc + 0.3 * a + 0.1 * mu, law.scale))

    return model, guide


def sequential_plate() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for i in pyro.plate("steps", 3):
            local = pyro.sample(f"z {i}", dist.Normal(z, 1.0))
            pyro.sample(f"x {i}", dist.Normal(local, 0.5), obs=DATA[i])

    def guide():
        pyro.sample("z", q("z"))
        for i in pyro.plate("steps", 3):
            pyro.sample(f"z {i}", q(f"z {i}"))

    return model, guide


def markov() -> Program:
    def model():
        z = 0.0
        for i in pyro.markov(range(4)):
            z = pyro.sample(f"z {i}", dist.Normal(z, 1.0))
            pyro.sample(f"x {i}", dist.Normal(z, 0.5), obs=DATA[i])

    def guide():
        z = 0.0
        for i in pyro.markov(range(4)):
            law = q(f"z {i}")
            z = pyro.sample(f"z {i}", dist.Normal(law.loc + 0.5 * z, law.scale))

    return model, guide


def subsampled() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6, subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[rows])

    def guide():
        pyro.sample("mu", q("mu"))
        with pyro.plate("data", 6, subsample_size=2) as rows:
            whole = q("z", 6)
            pyro.sample("z", dist.Normal(whole.loc[rows], whole.scale[rows]))

    return model, guide


def subsampled_in_the_model() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6, subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(mu, 0.5), obs=DATA[rows])

    def guide():
        pyro.sample("mu", q("mu"))

    return model, guide


def subsampled_twice() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with (
            pyro.plate("rows", 2, subsample_size=1, dim=-2) as i,
            pyro.plate("columns", 3, subsample_size=2, dim=-1) as j,
        ):
            obs = DATA.reshape(2, 3)[i][:, j]
            pyro.sample("x", dist.Normal(mu, 0.5), obs=obs)

    def guide():
        pyro.sample("mu", q("mu"))

    return model, guide


def subsampled_sequentially() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in pyro.plate("steps", 4, subsample_size=2):
            z = pyro.sample(f"z {i}", dist.Normal(mu, 1.0))
            pyro.sample(f"x {i}", dist.Normal(z, 0.5), obs=DATA[i])

    def guide():
        pyro.sample("mu", q("mu"))
        for i in pyro.plate("steps", 4, subsample_size=2):
            pyro.sample(f"z {i}", q(f"z {i}"))

    return model, guide


def scaled() -> Program:
    model, guide = nested_plates()
    return poutine.scale(model, scale=0.3), poutine.scale(guide, scale=0.3)


def partly_scaled() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=2.5), pyro.plate("data", 6):
            with poutine.scale(scale=torch.tensor(0.5)):
                pyro.sample("x", dist.Normal(z, 0.5), obs=DATA)
            pyro.sample("y", dist.Normal(z, 1.5), obs=DATA)

    def guide():
        with poutine.scale(scale=0.7):  # an annealed guide
            pyro.sample("z", q("z"))

    return model, guide


def masked() -> Program:
    keep = torch.tensor([True, False, True, True, False, True])

    def model():
        with pyro.plate("data", 6):
            with poutine.mask(mask=keep):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=DATA)
            with poutine.mask(mask=False):
                pyro.sample("y", dist.Normal(z, 0.5), obs=DATA)

    def guide():
        with pyro.plate("data", 6), poutine.mask(mask=keep):
            pyro.sample("z", q("z", 6))

    return model, guide


def masked_distributions() -> Program:
    keep = torch.tensor([True, False, True, True, False, True])

    def model():
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(keep))
            pyro.sample("x", dist.Normal(z, 0.5).mask(keep), obs=DATA)
            pyro.sample("y", dist.Normal(z, 0.5).mask(False), obs=DATA)
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).mask(keep[:2]).to_event(1))

    def guide():
        with pyro.plate("data", 6):
            pyro.sample("z", q("z", 6).mask(keep))
        pyro.sample("w", q("w", 2).mask(keep[:2]).to_event(1))

    return model, guide


def partly_observed() -> Program:
    seen = torch.tensor([True, False, True, True, False, True])

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6):
            x = pyro.sample("x", dist.Normal(z, 0.5), obs=DATA, obs_mask=seen)
            pyro.sample("y", dist.Normal(x, 1.0), obs=DATA)

    def guide():
        pyro.sample("z", q("z"))
        with pyro.plate("data", 6):
            pyro.sample("x_unobserved", q("x", 6))

    return model, guide


def factors() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("prior", -((z - 0.3) ** 4))
        with pyro.plate("data", 6):
            pyro.factor("likelihood", -((DATA - z) ** 2))

    def guide():
        pyro.sample("z", q("z"))

    return model, guide


def factor_in_the_guide() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(), 0.5), obs=DATA[0])

    def guide():
        loc = pyro.param("loc", torch.tensor([0.2, 0.4]))
        log_scale = pyro.param("log_scale", torch.tensor([-0.5, 0.1]))
        noise = pyro.sample(
            "noise", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True}
        )
        pyro.factor("jacobian", -log_scale.sum().expand(noise.shape[:-1]), has_rsample=True)
        pyro.sample("z", dist.Delta(loc + log_scale.exp() * noise, event_dim=1))

    return model, guide


def deterministic() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6):
            loc = pyro.deterministic("loc", z.exp() * torch.ones(6))
            pyro.sample("x", dist.Normal(loc, 0.5), obs=DATA)

    def guide():
        pyro.sample("z", q("z"))

    return model, guide


def test_a_deterministic_site_of_the_guide_changes_nothing():
    # Pyro warns of it as of a latent that the model lacks.
    model, guide = deterministic()

    def noted():
        guide()
        pyro.deterministic("constant", torch.ones(6))

    def vague():
        z = pyro.sample("z", q("z"))
        with pyro.plate("data", 6):
            pyro.deterministic("loc", z.exp() * torch.ones(6))

    plain_step = step(dsvi.MixedELBO(), model, guide)
    for program in (noted, vague):
        torch.testing.assert_close(step(dsvi.MixedELBO(), model, program), plain_step)


def auxiliary() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[0])

    def guide():
        u = pyro.sample("u", q("u"), infer={"is_auxiliary": True})
        law = q("z")
        pyro.sample("z", dist.Normal(law.loc + 0.5 * u, law.scale))

    return model, guide


def point_mass() -> Program:
    def model():
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(w.sum(-1), scale), obs=DATA)

    def guide():
        scale = pyro.param("scale at", torch.tensor(0.7), constraint=constraints.positive)
        pyro.sample("scale", dist.Delta(scale))
        pyro.sample("w", dist.Delta(pyro.param("w at", torch.tensor([0.1, 0.3])), event_dim=1))

    return model, guide


def other_laws() -> Program:
    def model():
        rate = pyro.sample("rate", dist.LogNormal(0.0, 0.5))
        w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        u = pyro.sample("u", dist.Uniform(0.0, 1.0))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(w.sum(-1) + u, rate), obs=DATA)

    def guide():
        law = q("rate")
        pyro.sample("rate", dist.TransformedDistribution(law, [dist.transforms.ExpTransform()]))
        tril = pyro.param("tril", torch.eye(2) * 0.7, constraint=constraints.lower_cholesky)
        loc = pyro.param("w loc", torch.ones(2))
        pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))
        low = pyro.param("low", torch.tensor(0.2), constraint=constraints.unit_interval)
        pyro.sample("u", dist.Uniform(low, low + 0.5 * (1 - low)))

    return model, guide


def reparameterised_model() -> Program:
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(mu, 2.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[0])

    def guide():
        pyro.sample("mu", q("mu"))
        pyro.sample("z_decentered", q("z"))

    return poutine.reparam(model, config={"z": LocScaleReparam(0.0)}), guide


def conditioned() -> Program:
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(z, 1.0))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(z + w, 0.5))

    def guide():
        pyro.sample("z", q("z"))

    return poutine.condition(model, data={"x": DATA, "w": torch.tensor(0.4)}), guide


class Regression(PyroModule):
    """A model whose weights are PyroSamples, on a network's module."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        self.sigma = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self):
        loc = self.linear(DATA.unsqueeze(-1)).squeeze(-1)
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(loc, self.sigma), obs=2 * DATA + 0.1)


class RegressionGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.full((2,), 0.3))

    @PyroParam(constraint=constraints.positive)
    def scale(self):
        return torch.full((2,), 0.6)

    def forward(self):
        law = dist.Normal(self.loc, self.scale)
        w, b = law.loc[:1].reshape(1, 1), law.loc[1:]
        pyro.sample("linear.weight", dist.Normal(w, law.scale[0]).to_event(2))
        pyro.sample("linear.bias", dist.Normal(b, law.scale[1]).to_event(1))


def pyro_modules() -> Program:
    return Regression(), RegressionGuide()


SAME_MINIBATCH = [subsampled, subsampled_in_the_model, subsampled_twice]
SIDE_BY_SIDE = [
    plain,
    nested_plates,
    sequential_plate,
    markov,
    scaled,
    partly_scaled,
    masked,
    masked_distributions,
    partly_observed,
    factors,
    factor_in_the_guide,
    deterministic,
    auxiliary,
    point_mass,
    conditioned,
]
ONE_BY_ONE = [*SIDE_BY_SIDE, other_laws, reparameterised_model, pyro_modules]
PROGRAMS = [*ONE_BY_ONE, *SAME_MINIBATCH, subsampled_sequentially]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("preset", [dsvi.MixedELBO, dsvi.PathwiseELBO])
def test_one_particle_equals_trace_elbo(program, preset):
    assert_same_step(preset(), Trace_ELBO(), *program())


@pytest.mark.parametrize("program", ONE_BY_ONE)
def test_particles_in_a_loop_equal_trace_elbo(program):
    options = {"num_particles": 3, "vectorize_particles": False}
    # What the particles share is differentiated once here; Pyro needs its graph kept for that.
    assert_same_step(
        dsvi.MixedELBO(**options), Trace_ELBO(retain_graph=True, **options), *program()
    )


@pytest.mark.parametrize("program", [*SIDE_BY_SIDE, *SAME_MINIBATCH, subsampled_sequentially])
def test_particles_side_by_side_equal_trace_elbo(program):
    options = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 2}
    assert_same_step(dsvi.MixedELBO(**options), Trace_ELBO(**options), *program())


@pytest.mark.parametrize("program", [plain, nested_plates, masked, subsampled])
def test_particles_are_side_by_side_where_that_is_found_to_be_right(program):
    model, guide = program()
    theirs = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    assert_same_step(dsvi.MixedELBO(num_particles=3), theirs, model, guide)


@pytest.mark.parametrize("program", PROGRAMS)
def test_loss_equals_that_of_trace_elbo(program):
    model, guide = program()
    losses = []
    for objective in (dsvi.MixedELBO(), Trace_ELBO()):
        pyro.set_rng_seed(SEED)
        losses.append(objective.loss(model, guide))
        assert isinstance(losses[-1], float)
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


@pytest.mark.parametrize("program", ONE_BY_ONE)
def test_differentiable_loss_equals_that_of_trace_elbo(program):
    model, guide = program()
    step(Trace_ELBO(), model, guide)  # makes the parameters
    leaves = parameters_of(model, guide)
    results = []
    for objective in (dsvi.MixedELBO(), Trace_ELBO()):
        pyro.set_rng_seed(SEED)
        loss = objective.differentiable_loss(model, guide)
        results.append((loss.detach(), gradient(loss, leaves)))
    torch.testing.assert_close(results[0], results[1], atol=1e-10, rtol=0)


def parameters_of(model, guide) -> list[Tensor]:
    with poutine.trace(param_only=True) as capture:
        Trace_ELBO().loss(model, guide)
    return [site["value"].unconstrained() for site in capture.trace.nodes.values()]


def test_a_minibatch_is_fresh_in_each_step_and_one_for_all_particles():
    seen = []

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 50, subsample_size=5) as rows:
            seen.append(rows)
            pyro.sample("x", dist.Normal(mu, 1.0), obs=torch.zeros(5))

    def guide():
        pyro.sample("mu", q("mu"))

    objective = dsvi.MixedELBO(num_particles=3, vectorize_particles=False)
    for _ in range(2):
        objective.loss_and_grads(model, guide)
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(rows, first[0]) for rows in first)
    assert all(torch.equal(rows, second[0]) for rows in second)
    assert not torch.equal(first[0], second[0])


def test_arguments_reach_both_programs():
    def model(x, *, sigma):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, sigma), obs=x)

    def guide(x, *, sigma):
        law = q("z")
        pyro.sample("z", dist.Normal(law.loc + x.mean(), law.scale * sigma))

    assert_same_step(dsvi.MixedELBO(), Trace_ELBO(), model, guide, DATA, sigma=0.7)


def test_float32_programs_stay_in_float32():
    torch.set_default_dtype(torch.float32)
    data = DATA.float()

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 6):
            pyro.sample("x", dist.Normal(z, 0.5), obs=data)

    def guide():
        pyro.sample("z", q("z"))

    for k in (1, 3):
        options = {"num_particles": k, "vectorize_particles": k > 1, "max_plate_nesting": 1}
        assert_same_step(dsvi.MixedELBO(**options), Trace_ELBO(**options), model, guide, atol=1e-5)
    loss = dsvi.MixedELBO(num_particles=3).differentiable_loss(model, guide)
    assert loss.dtype == torch.float32


def test_float64_parameters_under_a_float32_default():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(()), torch.ones(())))
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(z + b, torch.tensor(0.5)), obs=DATA[0])

    def guide():
        pyro.sample("z", q("z"))
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("b logit", lambda: torch.zeros(()))))

    step(dsvi.MixedELBO(), model, guide)  # makes the parameters
    torch.set_default_dtype(torch.float32)
    for objective in (
        dsvi.MixedELBO(num_particles=3),
        dsvi.ScoreFunctionELBO(dsvi.baselines.MovingAverage(), num_particles=3),
        dsvi.IWAE(3),
    ):
        _, gradients = step(objective, model, guide)
        assert all(g.isfinite().all() for g in gradients.values())
        assert all(g.dtype == torch.float64 for g in gradients.values())


# -- automatic guides ----------------------------------------------------------------------------


def hierarchical_model():
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("groups", 2, dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, sigma))
        with pyro.plate("members", 3, dim=-1):
            loc = a + w.sum(-1)
            pyro.sample("x", dist.Normal(loc, 0.5), obs=DATA.reshape(2, 3))


def guide_list(model):
    guides = autoguide.AutoGuideList(model)
    guides.append(autoguide.AutoNormal(poutine.block(model, expose=["sigma", "a"])))
    guides.append(autoguide.AutoDelta(poutine.block(model, expose=["w"])))
    return guides


AUTOGUIDES = {
    "AutoDelta": autoguide.AutoDelta,
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRank": lambda m: autoguide.AutoLowRankMultivariateNormal(m, rank=2),
    "AutoIAF": lambda m: autoguide.AutoIAFNormal(m, hidden_dim=[8]),
    "AutoLaplace": autoguide.AutoLaplaceApproximation,
    "AutoStructured": autoguide.AutoStructured,
    "AutoGuideList": guide_list,
    "AutoNormalMessenger": autoguide.AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": autoguide.AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": autoguide.AutoRegressiveMessenger,
}


@pytest.mark.parametrize("name", AUTOGUIDES)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_automatic_guides_equal_trace_elbo(name, num_particles):
    guide = AUTOGUIDES[name](hierarchical_model)
    guide()  # makes its parameters
    options = {"num_particles": num_particles, "vectorize_particles": False}
    theirs = Trace_ELBO(retain_graph=True, **options)
    assert_same_step(dsvi.MixedELBO(**options), theirs, hierarchical_model, guide)


@pytest.mark.parametrize("name", ["AutoDelta", "AutoNormal", "AutoGuideList"])
def test_automatic_guides_equal_trace_elbo_side_by_side(name):
    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 0.5))
        with pyro.plate("groups", 6):
            a = pyro.sample("a", dist.Normal(w, sigma))
            pyro.sample("x", dist.Normal(a, 0.5), obs=DATA)

    guide = AUTOGUIDES[name](model)
    guide()
    options = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}
    assert_same_step(dsvi.MixedELBO(**options), Trace_ELBO(**options), model, guide)


def test_a_fresh_automatic_guide_makes_its_parameters_in_the_first_step():
    for name, make in AUTOGUIDES.items():
        pyro.clear_param_store()
        objective = dsvi.MixedELBO(num_particles=2, vectorize_particles=False)
        svi = SVI(hierarchical_model, make(hierarchical_model), pyro.optim.Adam({}), objective)
        assert svi.step() != svi.step(), name


class Amortised(autoguide.AutoNormalMessenger):
    """A guide that is a handler and has a network."""

    def __init__(self, model):
        super().__init__(model)
        self.net = torch.nn.Linear(6, 1)

    def get_posterior(self, name, prior):
        law = super().get_posterior(name, prior)
        if name != "w":
            return law
        return dist.Normal(self.net(DATA).squeeze(), 0.7)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_guide_messenger_with_a_network_equals_trace_elbo(num_particles):
    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 6):
            a = pyro.sample("a", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(a, 0.5), obs=DATA)

    guide = Amortised(model)
    guide()
    options = {"num_particles": num_particles, "vectorize_particles": num_particles > 1}
    options["max_plate_nesting"] = 1
    assert_same_step(dsvi.MixedELBO(**options), Trace_ELBO(**options), model, guide)


def data_model(x=DATA):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "condition": lambda m: poutine.condition(m, data={"x": 2 * DATA}),
    "scale": lambda m: poutine.scale(m, scale=3.0),
    "mask": lambda m: poutine.mask(m, mask=DATA[0] > 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["AutoNormal", "AutoDelta", "AutoNormalMessenger"])
def test_a_model_changed_after_its_guide_was_made_stays_changed(change, name):
    # Pyro takes the model that a GuideMessenger was made from instead of the one it is given.
    changed = CHANGES[change](data_model)
    guide = AUTOGUIDES[name](data_model)
    guide()

    pyro.set_rng_seed(SEED)
    with torch.no_grad():
        drawn = poutine.trace(guide).get_trace()
        sites = {n: m for n, m in drawn.nodes.items() if n in ("z", "z_unconstrained")}
        log_q = sum(m["fn"].log_prob(m["value"]) for m in sites.values())
        given = poutine.condition(changed, data={"z": sites["z"]["value"]})
        log_p = poutine.trace(given).get_trace().log_prob_sum()
    expected = float(log_q - log_p)
    objective = dsvi.MixedELBO()
    pyro.set_rng_seed(SEED)
    assert objective.loss(changed, guide) == pytest.approx(expected, abs=1e-10)
    pyro.set_rng_seed(SEED)
    assert objective.loss(data_model, guide) != pytest.approx(expected, abs=1e-3)


# -- frozen densities ----------------------------------------------------------------------------


class Detached(poutine.messenger.Messenger):
    """Gives a program its parameters without gradient."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


def frozen_elbo(model, guide) -> Tensor:
    """Sticking the landing by its definition, one particle."""
    live = poutine.trace(guide).get_trace()
    again = poutine.trace(poutine.replay(Detached()(guide), trace=live)).get_trace()
    for site in again.nodes.values():  # a torch parameter passes a handler by
        if site["name"].endswith("_latent"):
            site["fn"] = detached(site["fn"])
    log_p = poutine.trace(poutine.replay(model, trace=live)).get_trace().log_prob_sum()
    return log_p - again.log_prob_sum()


def detached(law: Any) -> Any:
    """A distribution of its own parameters, without their gradients."""
    if isinstance(law, torch.distributions.Independent):
        return detached(law.base_dist).to_event(law.reinterpreted_batch_ndims)
    names = {
        dist.Normal: ("loc", "scale"),
        dist.MultivariateNormal: ("loc", "scale_tril"),
        dist.LowRankMultivariateNormal: ("loc", "cov_factor", "cov_diag"),
        dist.Delta: ("v", "log_density"),
    }[type(law)]
    return type(law)(**{name: getattr(law, name).detach() for name in names})


def assert_sticks_the_landing(model, guide):
    step(dsvi.MixedELBO(), model, guide)  # makes the parameters
    leaves = parameters_of(model, guide)
    pyro.set_rng_seed(SEED)
    expected = frozen_elbo(model, guide)
    pyro.set_rng_seed(SEED)
    loss = dsvi.STL().differentiable_loss(model, guide)
    assert loss.item() == pytest.approx(-expected.item(), abs=1e-10)
    found = -gradient(loss, leaves)
    torch.testing.assert_close(found, gradient(expected, leaves), atol=1e-10, rtol=0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sticking_the_landing_holds_in_any_program(program):
    assert_sticks_the_landing(*program())


JOINT = [n for n in AUTOGUIDES if "Messenger" not in n and n != "AutoIAF"]


@pytest.mark.parametrize("name", JOINT)
def test_sticking_the_landing_holds_under_automatic_guides(name):
    guide = AUTOGUIDES[name](hierarchical_model)
    guide()
    assert_sticks_the_landing(hierarchical_model, guide)


def test_sticking_the_landing_holds_under_a_flow():
    guide = AUTOGUIDES["AutoIAF"](hierarchical_model)
    guide()
    leaves = [*guide.parameters()]
    pyro.set_rng_seed(SEED)
    live = poutine.trace(guide).get_trace()
    latent = live.nodes["_AutoIAFNormal_latent"]
    law, z = latent["fn"], latent["value"]
    while isinstance(law, torch.distributions.Independent):
        law = law.base_dist
    pyro.set_rng_seed(SEED)
    noise = law.base_dist.sample()
    (flow,) = law.transforms
    torch.testing.assert_close(flow(noise), z)

    def log_q(x):
        return law.base_dist.log_prob(x).sum() - flow.log_abs_det_jacobian(x, flow(x)).sum()

    # The density's slope at the draw, the flow's parameters held: back through the flow.
    slope = torch.func.grad(log_q)(noise) @ torch.func.jacrev(flow)(noise).inverse()
    log_p = poutine.trace(poutine.replay(hierarchical_model, trace=live)).get_trace()
    deltas = [m for m in live.nodes.values() if isinstance(m.get("fn"), dist.Delta)]
    jacobians = sum(m["fn"].log_prob(m["value"]).sum() for m in deltas)
    surrogate = log_p.log_prob_sum() - jacobians - (slope.detach() * z).sum()
    expected = gradient(surrogate, leaves)
    pyro.set_rng_seed(SEED)
    found = -gradient(dsvi.STL().differentiable_loss(hierarchical_model, guide), leaves)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [name for name in AUTOGUIDES if "Messenger" in name])
def test_frozen_densities_leave_the_value_of_a_guide_messenger_as_it_is(name):
    guide = AUTOGUIDES[name](hierarchical_model)
    guide()
    for frozen, live in ((dsvi.STL(), dsvi.MixedELBO()), (dsvi.DReG(1), dsvi.IWAE(1))):
        loss, gradients = step(frozen, hierarchical_model, guide)
        live_loss, live_gradients = step(live, hierarchical_model, guide)
        assert loss == pytest.approx(live_loss, abs=1e-10)
        assert any(not torch.allclose(g, live_gradients[n]) for n, g in gradients.items())


def test_sticking_the_landing_holds_with_an_encoder():
    encoder = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    decoder = torch.nn.Linear(1, 1)

    def model():
        pyro.module("decoder", decoder)
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(decoder(z.unsqueeze(-1)).squeeze(-1), 0.5), obs=DATA)

    def guide():
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(DATA.unsqueeze(-1)).unbind(-1)
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    leaves = [*encoder.parameters(), *decoder.parameters()]
    pyro.set_rng_seed(SEED)
    z = poutine.trace(guide).get_trace().nodes["z"]["value"]
    log_p = poutine.trace(poutine.condition(model, data={"z": z})).get_trace().log_prob_sum()
    loc, log_scale = (t.detach() for t in encoder(DATA.unsqueeze(-1)).unbind(-1))
    expected = log_p - dist.Normal(loc, log_scale.exp()).log_prob(z).sum()
    pyro.set_rng_seed(SEED)
    loss = dsvi.STL().differentiable_loss(model, guide)
    found = -gradient(loss, leaves)
    torch.testing.assert_close(found, gradient(expected, leaves), atol=1e-10, rtol=0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), dsvi.DReG(3))
    before = [p.detach().clone() for p in leaves]
    svi.step()
    assert all(not torch.equal(p, b) for p, b in zip(leaves, before, strict=True))
    assert all(p.requires_grad for p in leaves)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("vectorize_particles", [True, False])
def test_doubly_reparameterised_gradients_by_their_definition(alpha, vectorize_particles):
    model, guide = global_latent()
    step(dsvi.MixedELBO(), model, guide)  # makes the parameters
    leaves = parameters_of(model, guide)
    pyro.set_rng_seed(SEED)
    if vectorize_particles:
        particles = pyro.plate("num_particles_vectorized", 4, dim=-1)
        live = poutine.trace(particles(guide)).get_trace()
        again = poutine.trace(poutine.replay(Detached()(particles(guide)), trace=live)).get_trace()
        scored = poutine.trace(poutine.replay(particles(model), trace=live)).get_trace()
        for trace in (again, scored):
            trace.compute_log_prob()
        log_p = sum(m["log_prob"] for m in scored.nodes.values() if "log_prob" in m)
        log_q = sum(m["log_prob"] for m in again.nodes.values() if "log_prob" in m)
        log_w = log_p - log_q
    else:
        log_w = torch.stack([frozen_elbo(model, guide) for _ in range(4)])
    share = torch.softmax((1 - alpha) * log_w.detach(), 0)
    expected = ((alpha * share + (1 - alpha) * share**2) * log_w).sum()
    options = {"vectorize_particles": vectorize_particles, "max_plate_nesting": 0}
    pyro.set_rng_seed(SEED)
    loss = dsvi.Renyi(alpha, 4, frozen=True, **options).differentiable_loss(model, guide)
    found = -gradient(loss, leaves)
    torch.testing.assert_close(found, gradient(expected, leaves), atol=1e-10, rtol=0)
    if alpha == 0:
        pyro.set_rng_seed(SEED)
        loss = dsvi.DReG(4, **options).differentiable_loss(model, guide)
        torch.testing.assert_close(-gradient(loss, leaves), found, atol=1e-12, rtol=0)


# -- discrete latents: the same expectations -----------------------------------------------------


def binary_program(kind: str):
    logits = torch.tensor([0.4, -0.3], requires_grad=True)
    slope = torch.tensor(0.6, requires_grad=True)
    keep = torch.tensor([True, False])

    def around():
        return {
            "plates": poutine.scale(scale=1.0),
            "scale": poutine.scale(scale=2.5),
            "mask of the model": poutine.scale(scale=1.0),
            "subsampling": poutine.scale(scale=1.0),
        }[kind]

    def plate():
        size = 4 if kind == "subsampling" else 2
        return pyro.plate("rows", size, subsample=torch.arange(2), dim=-1)

    def guide():
        with around():
            top = pyro.sample("top", dist.Bernoulli(logits=slope))
            with plate():
                pyro.sample("z", dist.Bernoulli(logits=logits + slope * top))

    def model():
        with around():
            top = pyro.sample("top", dist.Bernoulli(0.3))
            mask = poutine.mask(mask=keep if kind == "mask of the model" else True)
            with plate():
                z = pyro.sample("z", dist.Bernoulli(0.3 + 0.4 * top))
                with mask:
                    pyro.sample("x", dist.Normal(z + slope * top, 0.7), obs=DATA[:2])

    return model, guide, [logits, slope]


@pytest.mark.parametrize("kind", ["plates", "scale", "mask of the model", "subsampling"])
def test_discrete_latents_give_the_same_expected_gradient(kind):
    model, guide, parameters = binary_program(kind)
    draws = [*every_draw(top=(), z=(2,))]
    theirs = expected_gradient(Trace_ELBO(), model, guide, parameters, iter(draws))
    for objective in (
        dsvi.MixedELBO(),
        dsvi.ScoreFunctionELBO(),
        dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.ScoreFunction()}),
    ):
        ours = expected_gradient(objective, model, guide, parameters, iter(draws))
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    truth = gradient(exact_elbo(model, guide, iter(draws)), parameters)
    torch.testing.assert_close(theirs, truth, atol=1e-10, rtol=0)


@pytest.mark.parametrize("way", ["poutine.mask", "distribution", "poutine.mask, False"])
def test_a_mask_silences_a_cost_but_not_a_draw(way):
    # Pyro masks the score as well, so that what is drawn there gets no credit for what it causes.
    logits = torch.tensor([0.4, -0.3], requires_grad=True)
    keep = torch.tensor([True, False])

    def draw(law):
        if way == "distribution":
            return pyro.sample("z", law.mask(keep))
        with poutine.mask(mask=keep if way == "poutine.mask" else False):
            return pyro.sample("z", law)

    def guide():
        with pyro.plate("rows", 2):
            draw(dist.Bernoulli(logits=logits))

    def model():
        with pyro.plate("rows", 2):
            z = draw(dist.Bernoulli(torch.tensor([0.3, 0.3])))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=DATA[:2])

    truth, found = 0.0, 0.0
    for at in every_draw(z=(2,)):
        weight = dist.Bernoulli(logits=logits).log_prob(at["z"]).sum().exp()
        with Drawn(at):
            run = poutine.trace(guide).get_trace()
            log_p = poutine.trace(poutine.replay(model, trace=run)).get_trace().log_prob_sum()
            log_q = run.log_prob_sum()
        truth = truth + weight * (log_p - log_q)
        estimate = gradient_at(dsvi.ScoreFunctionELBO(), model, guide, [logits], at)
        found = found + weight.detach() * estimate
    torch.testing.assert_close(found, gradient(truth, [logits]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_same_draws_give_the_gradient_of_tracegraph_elbo(num_particles):
    # Where tensors carry all influence, credit is cut down as TraceGraph_ELBO does it.
    def model():
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        with pyro.plate("data", 6):
            z2 = pyro.sample("z2", dist.Bernoulli(0.2 + 0.5 * z1))
            pyro.sample("x", dist.Normal(z2, 0.7), obs=DATA)
        pyro.sample("y", dist.Normal(z1, 0.7), obs=DATA[0])

    def guide():
        z1 = pyro.sample("z1", dist.Bernoulli(logits=pyro.param("a", torch.tensor(0.4))))
        with pyro.plate("data", 6):
            logits = pyro.param("b", 0.3 * DATA) + pyro.param("c", torch.tensor(0.5)) * z1
            pyro.sample("z2", dist.Bernoulli(logits=logits))

    options = {"num_particles": num_particles, "vectorize_particles": False}
    ours = dsvi.ScoreFunctionELBO(**options)
    assert_same_step(ours, TraceGraph_ELBO(**options), model, guide)


def test_a_discrete_auxiliary_site_of_the_guide_counts():
    a, b, c = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3, 0.8)]

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z, 0.7), obs=DATA[0])

    def guide():
        u = pyro.sample("u", dist.Bernoulli(logits=a), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Bernoulli(logits=b + c * u))

    def draws():
        return every_draw(u=(), z=())

    truth = gradient(exact_elbo(model, guide, draws()), parameters)
    ours = expected_gradient(dsvi.MixedELBO(), model, guide, parameters, draws())
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=0)


@pytest.mark.parametrize("through", ["Delta", "deterministic", "self"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_factor_of_the_guide_without_rsample_is_the_score_of_a_draw_made_outside(
    through, earlier
):
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    outcome = {}

    def guide():
        if earlier:
            pyro.sample("b", dist.Bernoulli(logits=b))
        z = torch.full((), outcome["z"])
        if through == "Delta":
            pyro.sample("z", dist.Delta(z))
        elif through == "deterministic":
            pyro.deterministic("kept", z)
        outcome["kept"] = z
        pyro.factor("z's density", dist.Bernoulli(logits=a).log_prob(z), has_rsample=False)
        if not earlier:
            pyro.sample("b", dist.Bernoulli(logits=b))

    def model():
        z = outcome["kept"]
        if through == "Delta":
            z = pyro.sample("z", dist.Bernoulli(0.3))
        else:
            pyro.factor("z's prior", dist.Bernoulli(0.3).log_prob(z))
        bit = pyro.sample("b", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Normal(z, 0.7), obs=DATA[0])
        pyro.sample("y", dist.Normal(bit, 0.7), obs=DATA[0])

    def expectation(of):
        total = 0.0
        for z in (0.0, 1.0):
            outcome["z"] = z
            total = total + dist.Bernoulli(logits=a).log_prob(torch.tensor(z)).exp() * of()
        return total

    def true_bound_given_z():
        value = 0.0
        for draw in every_draw(b=()):
            with Drawn(draw):
                run = poutine.trace(guide).get_trace()
                p = poutine.trace(poutine.replay(model, trace=run)).get_trace()
            log_q = dist.Bernoulli(logits=b).log_prob(draw["b"])
            value = value + log_q.exp() * (p.log_prob_sum() - run.log_prob_sum())
        return value

    truth = gradient(expectation(true_bound_given_z), parameters)
    found = 0.0
    for z in (0.0, 1.0):
        outcome["z"] = z
        weight = dist.Bernoulli(logits=a).log_prob(torch.tensor(z)).exp().detach()
        for draw in every_draw(b=()):
            both = weight * dist.Bernoulli(logits=b).log_prob(draw["b"]).exp().detach()
            found = found + both * gradient_at(dsvi.MixedELBO(), model, guide, parameters, draw)
    torch.testing.assert_close(found, truth, atol=1e-10, rtol=0)


# -- what takes the place of Pyro's other objectives ---------------------------------------------


@pytest.mark.parametrize("program", [plain, nested_plates, scaled, masked, pyro_modules])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_analytic_kl_equals_trace_mean_field(program, num_particles):
    options = {"num_particles": num_particles}
    ours = dsvi.MixedELBO(analytic_kl=True, vectorize_particles=False, **options)
    assert_same_step(ours, TraceMeanField_ELBO(retain_graph=True, **options), *program())


@pytest.mark.parametrize("of_guide", [1.0, 0.7])
def test_a_closed_form_takes_scale_and_mask_from_model_and_guide_alike(of_guide):
    # TraceMeanField_ELBO takes both from the guide.
    keep = torch.tensor([True, False, True])

    def model():
        with pyro.plate("data", 3), poutine.scale(scale=2.5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        with pyro.plate("data", 3), poutine.scale(scale=of_guide), poutine.mask(mask=keep):
            pyro.sample("z", q("z", 3))

    loss, gradients = step(dsvi.MixedELBO(analytic_kl=True), model, guide)
    loc = torch.linspace(0.2, 0.5, 3).requires_grad_()
    log_scale = (0.5 + torch.linspace(0.2, 0.5, 3)).log().requires_grad_()
    law = dist.Normal(loc, log_scale.exp())
    cross = torch.distributions.kl_divergence(law, dist.Normal(0.0, 1.0)) + law.entropy()
    expected = 2.5 * cross.sum() - of_guide * (law.entropy() * keep).sum()
    assert loss == pytest.approx(expected.item(), abs=1e-10)
    found = torch.cat([gradients["z loc"], gradients["z scale"]])
    torch.testing.assert_close(found, gradient(expected, [loc, log_scale]), atol=1e-10, rtol=0)


def fully_local() -> Program:
    def model():
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA)

    def guide():
        with pyro.plate("data", 6):
            pyro.sample("z", q("z", 6))

    return model, guide


def global_latent() -> Program:
    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        v = pyro.sample("v", dist.Normal(w, 1.0))
        pyro.sample("x", dist.Normal(v, 0.5), obs=DATA[0])

    def guide():
        w = pyro.sample("w", q("w"))
        law = q("v")
        pyro.sample("v", dist.Normal(law.loc + 0.5 * w, law.scale))

    return model, guide


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.5, 2.0])
@pytest.mark.parametrize("program", [fully_local, global_latent])
def test_renyi_equals_renyi_elbo_side_by_side(alpha, program):
    options = {"num_particles": 5, "vectorize_particles": True, "max_plate_nesting": 1}
    ours = dsvi.Renyi(alpha=alpha, **options)
    assert_same_step(ours, RenyiELBO(alpha=alpha, **options), *program())
    if alpha == 0:
        assert_same_step(dsvi.IWAE(**options), RenyiELBO(alpha=0, **options), *program())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_renyi_equals_renyi_elbo_where_plates_are_merged(alpha):
    options = {"num_particles": 5, "vectorize_particles": True, "max_plate_nesting": 1}
    ours = dsvi.Renyi(alpha=alpha, **options)
    with pytest.warns(dsvi.errors.PlatesMergedWarning, match="plate 'data'.*site 'z'"):
        ours.loss(*plain())
    assert_same_step(ours, RenyiELBO(alpha=alpha, **options), *plain())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_renyi_equals_renyi_elbo_in_a_loop(alpha):
    options = {"num_particles": 5, "vectorize_particles": False}
    ours = dsvi.Renyi(alpha=alpha, **options)
    assert_same_step(ours, RenyiELBO(alpha=alpha, **options), *global_latent())


def test_subsampling_stands_outside_the_logarithm():
    # Inside it, as in RenyiELBO, the result is no bound.
    rows = torch.tensor([1, 4])

    def model():
        with pyro.plate("data", 6, subsample=rows):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[rows])

    def guide():
        with pyro.plate("data", 6, subsample=rows):
            pyro.sample("z", q("z", 2))

    def rest_model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[rows])

    def rest_guide():
        with pyro.plate("data", 2):
            pyro.sample("z", q("z", 2))

    options = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}
    loss, gradients = step(dsvi.IWAE(**options), model, guide)
    unscaled, expected = step(RenyiELBO(alpha=0, **options), rest_model, rest_guide)
    assert loss == pytest.approx(3 * unscaled, abs=1e-10)
    for name, g in expected.items():
        torch.testing.assert_close(gradients[name], 3 * g, atol=1e-10, rtol=0)


# -- ways of using an objective ------------------------------------------------------------------


def mixed_program() -> Program:
    def model(x=DATA):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.3))
            z = pyro.sample("z", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x=DATA):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=pyro.param("b", lambda: 0.1 * x)))
            law = q("z", len(x))
            pyro.sample("z", dist.Normal(law.loc + b, law.scale))

    return model, guide


PRESETS: dict[str, tuple[Callable[..., Any], Callable[[], Program]]] = {
    "ScoreFunctionELBO": (dsvi.ScoreFunctionELBO, mixed_program),
    "ScoreFunctionELBO, baseline": (
        lambda **o: dsvi.ScoreFunctionELBO(dsvi.baselines.MovingAverage(), **o),
        mixed_program,
    ),
    "PathwiseELBO": (dsvi.PathwiseELBO, fully_local),
    "MixedELBO": (lambda **o: dsvi.MixedELBO(num_particles=3, **o), mixed_program),
    "MixedELBO, analytic": (
        lambda **o: dsvi.MixedELBO(num_particles=3, analytic_kl=True, **o),
        mixed_program,
    ),
    "STL": (dsvi.STL, fully_local),
    "IWAE": (lambda **o: dsvi.IWAE(3, **o), mixed_program),
    "VIMCO": (lambda **o: dsvi.VIMCO(3, **o), mixed_program),
    "DReG": (lambda **o: dsvi.DReG(3, **o), fully_local),
    "Renyi": (lambda **o: dsvi.Renyi(0.5, 3, **o), mixed_program),
    "Objective": (
        lambda **o: dsvi.Objective(
            dsvi.bounds.Evidence(),
            num_particles=3,
            estimators={"b": dsvi.ScoreFunction(dsvi.baselines.LeaveOneOut())},
            **o,
        ),
        mixed_program,
    ),
}


@pytest.fixture(params=PRESETS)
def preset(request):
    return PRESETS[request.param]


@pytest.mark.parametrize("vectorize_particles", [None, False, True])
def test_differentiable_loss_and_loss_and_grads_agree(preset, vectorize_particles):
    make, program = preset
    model, guide = program()
    options = {"vectorize_particles": vectorize_particles}
    loss, expected = step(make(**options), model, guide)
    leaves = [pyro.param(name).unconstrained() for name in expected]
    pyro.set_rng_seed(SEED)
    value = make(**options).differentiable_loss(model, guide)
    assert value.shape == ()
    assert value.item() == pytest.approx(loss, abs=1e-12)
    found = gradient(value, leaves)
    torch.testing.assert_close(found, torch.cat([g.reshape(-1) for g in expected.values()]))


def test_loss_is_the_value_of_the_step_and_leaves_no_gradient(preset):
    make, program = preset
    model, guide = program()
    loss, _ = step(make(), model, guide)
    pyro.set_rng_seed(SEED)
    value = make().loss(model, guide)
    assert isinstance(value, float)
    assert value == pytest.approx(loss, abs=1e-10)
    assert all(p.unconstrained().grad is None for p in pyro.get_param_store().values())


def test_every_preset_trains_in_svi(preset):
    make, program = preset
    model, guide = program()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), make())
    svi.step()
    before = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
    assert isinstance(svi.step(), float)
    assert isinstance(svi.evaluate_loss(), float)
    for name, p in pyro.get_param_store().items():
        assert not torch.equal(p, before[name]), name


def test_svi_takes_the_same_steps_as_with_trace_elbo():
    runs = []
    for objective in (dsvi.PathwiseELBO(), Trace_ELBO()):
        pyro.clear_param_store()
        pyro.set_rng_seed(SEED)
        svi = SVI(*nested_plates(), pyro.optim.ClippedAdam({"lr": 0.05}), objective)
        losses = [svi.step() for _ in range(10)]
        runs.append((losses, {n: p.detach() for n, p in pyro.get_param_store().items()}))
    torch.testing.assert_close(runs[0], runs[1], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("local", [True, False])
def test_a_torch_optimizer_takes_the_same_steps_as_with_trace_elbo(local):
    pyro.settings.set(module_local_params=local)
    runs = []
    for objective in (dsvi.PathwiseELBO(), Trace_ELBO()):
        pyro.clear_param_store()
        pyro.set_rng_seed(SEED)
        model = Regression()
        guide = autoguide.AutoNormal(model)
        module = objective(model, guide)
        module()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = module()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, {n: p.detach() for n, p in module.named_parameters()}))
    assert runs[0][1].keys() == runs[1][1].keys()
    torch.testing.assert_close(runs[0], runs[1], atol=1e-10, rtol=1e-10)
    assert bool(len(pyro.get_param_store())) is not local


def test_two_modules_with_local_parameters_do_not_share_them():
    pyro.settings.set(module_local_params=True)
    modules = []
    for _ in range(2):
        model = Regression()
        modules.append(dsvi.MixedELBO()(model, autoguide.AutoNormal(model)))
        modules[-1]()
    first = [*modules[0].parameters()]
    assert first
    assert not {id(p) for p in first} & {id(p) for p in modules[1].parameters()}


def test_loss_leaves_baselines_alone():
    model, guide = mixed_program()
    net = torch.nn.Linear(1, 1)
    for baseline in (
        dsvi.baselines.MovingAverage(),
        dsvi.baselines.OptimalScale(dsvi.baselines.MovingAverage()),
        dsvi.baselines.Neural(net, inputs=lambda: DATA.unsqueeze(-1)),
    ):
        objective = dsvi.ScoreFunctionELBO(baseline)
        svi = SVI(model, guide, pyro.optim.Adam({}), objective)
        svi.step()
        before = copy.deepcopy(objective.state_dict())
        assert before
        objective.loss(model, guide)
        svi.evaluate_loss()
        assert_same_state(objective.state_dict(), before)


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=0, rtol=0)


@pytest.mark.parametrize("vectorize_particles", [True, False])
def test_what_particles_and_steps_share_does_not_break_the_backward_pass(vectorize_particles):
    raw = torch.tensor(0.3, requires_grad=True)

    def program():
        shared = raw.exp()  # one graph, seen by all particles

        def model():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[0])

        def guide():
            pyro.sample("z", dist.Normal(shared, 1.0))

        return model, guide

    objective = dsvi.PathwiseELBO(num_particles=3, vectorize_particles=vectorize_particles)
    for _ in range(2):
        objective.loss_and_grads(*program())
    assert raw.grad.isfinite()


def test_an_objective_can_be_pickled_and_copied(preset):
    make, program = preset
    model, guide = program()
    objective = make()
    for _ in range(2):  # fresh, and after a step
        copies = [pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)]
        for twin in copies:
            assert_same_state(twin.state_dict(), objective.state_dict())
            state = copy.deepcopy(objective.state_dict())
            loss, gradients = step(objective, model, guide)
            objective.load_state_dict(state)
            twin_loss, twin_gradients = step(twin, model, guide)
            assert twin_loss == loss
            for name, g in gradients.items():
                torch.testing.assert_close(twin_gradients[name], g, atol=0, rtol=0)


def test_objectives_are_built_with_pyros_keywords():
    keywords = {"num_particles": 2, "max_plate_nesting": 1, "vectorize_particles": True}
    model, guide = fully_local()
    pairs = [
        (Trace_ELBO, dsvi.MixedELBO),
        (Trace_ELBO, dsvi.PathwiseELBO),
        (TraceGraph_ELBO, dsvi.MixedELBO),
        (TraceMeanField_ELBO, lambda **o: dsvi.MixedELBO(analytic_kl=True, **o)),
        (RenyiELBO, lambda **o: dsvi.Renyi(alpha=0.0, **o)),
        (RenyiELBO, dsvi.IWAE),
    ]
    for theirs, ours in pairs:
        assert_same_step(ours(**keywords), theirs(**keywords), model, guide)


@pytest.mark.parametrize("noise", [-1.0, 0.2, 1.0])
def test_a_mixed_guide_has_the_expected_gradient_of_trace_elbo_at_any_noise(noise):
    a, loc = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, 0.3)]

    def model():
        b = pyro.sample("b", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=DATA[0])

    def guide():
        b = pyro.sample("b", dist.Bernoulli(logits=a))
        pyro.sample("z", dist.Normal(loc + b, 0.8))

    def expected(objective):
        total = torch.zeros(2)
        for b in (0.0, 1.0):
            weight = dist.Bernoulli(logits=a).log_prob(torch.tensor(b)).exp().detach()
            with Noise(torch.tensor(noise)):
                at = gradient_at(objective, model, guide, parameters, {"b": torch.tensor(b)})
            total = total + weight * at
        return total

    ours, theirs = expected(dsvi.MixedELBO()), expected(Trace_ELBO())
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


class Noise(poutine.messenger.Messenger):
    """Draws Normal latents of the guide at a given noise."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], dist.Normal) and not (msg["done"] or msg["is_observed"]):
            msg["value"] = msg["fn"].loc + msg["fn"].scale * self.noise
            msg["done"] = True


# -- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("program", SIDE_BY_SIDE[:6])
@pytest.mark.parametrize("vectorize_particles", [True, False])
def test_programs_on_a_gpu_equal_trace_elbo(program, vectorize_particles, monkeypatch):
    torch.set_default_device("cuda")
    monkeypatch.setitem(globals(), "DATA", DATA.to("cuda"))
    options = {
        "num_particles": 3,
        "vectorize_particles": vectorize_particles,
        "max_plate_nesting": 2,
    }
    theirs = Trace_ELBO(retain_graph=True, **options)
    assert_same_step(dsvi.MixedELBO(**options), theirs, *program())


@pytest.mark.cuda
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_on_a_gpu(name, monkeypatch):
    torch.set_default_device("cuda")
    monkeypatch.setitem(globals(), "DATA", DATA.to("cuda"))
    make, program = PRESETS[name]
    svi = SVI(*program(), pyro.optim.Adam({"lr": 0.01}), make())
    for _ in range(3):
        loss = svi.step()
    assert loss == loss
    devices = {p.device.type for p in pyro.get_param_store().values()}
    assert devices == {"cuda"}
