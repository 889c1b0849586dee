"""Antithetic particles: exact mirror images, the same law and expectation, less variance."""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.errors import (
    DependentParticlesWarning,
    DSVIWarning,
    IncompatibleSite,
    UncontrolledNoiseWarning,
)
from pyro_dsvi.handlers.coupling import Coupling, Seat
from pyro_dsvi.handlers.reparameterisation import reparameterisation
from tests.scenarios import f64

M, S = 0.3, 0.7


def pair_of(q: Callable[[], dist.Distribution], cost: Callable[[Tensor], Tensor]):
    """A model whose only cost is a function of z, a guide, and the draws that the guide makes."""
    drawn: list[Tensor] = []

    def model():
        with poutine.mask(mask=False):
            z = pyro.sample("z", q())
        pyro.factor("f", cost(z))

    def guide():
        with poutine.mask(mask=False):
            drawn.append(pyro.sample("z", q()))

    return model, guide, drawn


def normal() -> dist.Distribution:
    return dist.Normal(pyro.param("m", f64(M)), pyro.param("s", f64(S)))


def values(drawn: list[Tensor], side_by_side: bool) -> Tensor:
    return drawn[-1] if side_by_side else torch.stack(drawn)


MODES = pytest.mark.parametrize("side_by_side", [True, False])
AROUND = {
    "step": lambda objective, model, guide: _step(objective, model, guide),
    "guide": lambda objective, model, guide: objective.loss_and_grads(
        model, dsvi.handlers.antithetic(guide)
    ),
    "handler of guide": lambda objective, model, guide: objective.loss_and_grads(
        model, dsvi.handlers.antithetic()(guide)
    ),
}


def _step(objective, model, guide):
    with dsvi.handlers.antithetic():
        return objective.loss_and_grads(model, guide)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("count", [2, 5, 6])
@MODES
def test_pairs_are_mirror_images(around, frozen, count, side_by_side):
    """Side by side or in a loop, whatever the handler stands around; an odd one is left over."""
    model, guide, drawn = pair_of(normal, lambda z: z)
    objective = dsvi.Objective(
        dsvi.bounds.Evidence(),
        num_particles=count,
        vectorize_particles=side_by_side,
        frozen=frozen,
        max_plate_nesting=0,
    )
    drawn.clear()
    AROUND[around](objective, model, guide)
    z = values(drawn[-1:] if side_by_side else drawn[:: 1 + frozen], side_by_side)
    z = z[-count:]
    pairs = z[: count // 2 * 2].reshape(-1, 2)
    torch.testing.assert_close(pairs.sum(-1), f64([2 * M] * len(pairs)), rtol=0, atol=1e-15)
    assert len(z.unique()) == count


@pytest.mark.parametrize("around", AROUND)
@MODES
def test_linear_cost_has_no_variance(around, side_by_side):
    """Each pair gives the exact bound and gradient: d/dm = 2, d/ds = 0."""
    model, guide, _ = pair_of(normal, lambda z: 2 * z)
    objective = dsvi.PathwiseELBO(num_particles=4, vectorize_particles=side_by_side)
    loss = AROUND[around](objective, model, guide)
    assert loss == pytest.approx(-2 * M, abs=1e-14)
    assert float(pyro.param("m").grad) == pytest.approx(-2, abs=1e-14)
    assert float(pyro.param("s").grad) == pytest.approx(0, abs=1e-14)


def copies(objective, cost, handler, size: int, guide_law=dist.Normal) -> Tensor:
    """Gradients in (m, s) of so many independent estimates, each in a plate element of its own."""
    m = torch.full((size,), M, dtype=torch.float64, requires_grad=True)
    s = torch.full((size,), S, dtype=torch.float64, requires_grad=True)

    def model():
        with pyro.plate("copies", size):
            with poutine.mask(mask=False):
                z = pyro.sample("z", guide_law(m.detach(), s.detach()))
            pyro.factor("f", cost(z))

    def guide():
        with pyro.plate("copies", size), poutine.mask(mask=False):
            pyro.sample("z", guide_law(m, s))

    with handler:
        loss = objective.differentiable_loss(model, guide)
    return -torch.stack(torch.autograd.grad(loss, (m, s)))


def assert_mean(draws: Tensor, expected: float) -> None:
    error = draws.std() / math.sqrt(len(draws))
    assert abs(float((draws.mean() - expected) / error)) < 4


@MODES
def test_variance_of_a_quadratic_cost(side_by_side):
    """F = z + z²/2: d/dm = 1 + z keeps its mean, and its variance of s²/2 becomes zero.

    d/ds = (1 + z) ε has mean s.  Of its variance (1 + m)² + 2s² the first part is odd in ε and
    goes; the even part has half as many independent draws as it would have.
    """
    results = {}
    for name, handler in (
        ("plain", nullcontext()),
        ("antithetic", dsvi.handlers.antithetic()),
    ):
        torch.manual_seed(0)
        objective = dsvi.PathwiseELBO(num_particles=2, vectorize_particles=side_by_side)
        results[name] = copies(objective, lambda z: z + z**2 / 2, handler, 40_000)
    for gradient in results.values():
        assert_mean(gradient[1], S)
    assert_mean(results["plain"][0], 1 + M)
    torch.testing.assert_close(
        results["antithetic"][0], f64(1 + M).expand(40_000), rtol=0, atol=1e-13
    )
    odd, even = (1 + M) ** 2, 2 * S**2
    assert float(results["plain"][1].var()) == pytest.approx((odd + even) / 2, rel=0.05)
    assert float(results["antithetic"][1].var()) == pytest.approx(even, rel=0.05)


LAWS = {
    "normal": dist.Normal,
    "log normal": dist.LogNormal,
    "laplace": dist.Laplace,
    "gumbel": dist.Gumbel,
    "flow": lambda m, s: dist.TransformedDistribution(
        dist.Normal(m, s), [dist.transforms.SigmoidTransform()]
    ),
}


@pytest.mark.parametrize("name", LAWS)
@MODES
def test_each_particle_keeps_its_law(name, side_by_side):
    """Kolmogorov and Smirnov's test on either member of a pair, at a fixed seed."""
    size, q = 20_000, LAWS[name](f64(M), f64(S))
    drawn = []

    def guide():
        with pyro.plate("copies", size):
            drawn.append(pyro.sample("z", LAWS[name](f64(M), f64(S))))

    with dsvi.handlers.antithetic():
        dsvi.PathwiseELBO(
            num_particles=2, vectorize_particles=side_by_side, max_plate_nesting=1
        ).loss(guide, guide)
    z = values(drawn, side_by_side)[-2:]
    z = drawn[-2] if side_by_side else torch.stack(drawn[-4::2])
    for particle in z:
        assert scipy.stats.kstest(q.cdf(particle).numpy(), "uniform").pvalue > 1e-3
    torch.testing.assert_close(q.cdf(z).sum(0), torch.ones(size).double(), rtol=0, atol=1e-12)


class Draws(poutine.messenger.Messenger):
    """What the guide draws at a site."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.values: list[Tensor] = []
        self.laws: list[dist.Distribution] = []
        self.given = False

    def _pyro_sample(self, msg):
        self.given = msg["done"]

    def _pyro_post_sample(self, msg):
        if msg["name"] == self.site and not self.given:
            self.values.append(msg["value"].detach())
            self.laws.append(msg["fn"])


AUTOGUIDES = {
    "normal": autoguide.AutoNormal,
    "diagonal": autoguide.AutoDiagonalNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
    "low rank": lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=1),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", AUTOGUIDES)
@MODES
def test_autoguides(name, wrapped, side_by_side):
    """The unconstrained draws of a pair have the posterior's location as their mean."""

    def model():
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.3, -1.0, 2.0]))

    guide = AUTOGUIDES[name](model)
    objective = dsvi.PathwiseELBO(num_particles=2, vectorize_particles=side_by_side)
    objective.loss(model, guide)
    handler = dsvi.handlers.antithetic()
    draws = Draws("z_unconstrained" if name == "normal" else f"_{guide._pyro_name}_latent")
    with draws, nullcontext() if wrapped else handler:
        objective.loss(model, handler(guide) if wrapped else guide)
    z = draws.values[0] if side_by_side else torch.stack(draws.values)
    mean = guide.median()["z"] if name == "normal" else guide.get_posterior().mean
    torch.testing.assert_close(z.reshape(2, -1).mean(0), mean.detach(), rtol=0, atol=1e-6)
    assert (z[0] - z[1]).abs().min() > 1e-4


def test_flow_guide():
    """A flow is not symmetric, but its base is: opposite noise, and the law of each particle."""

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    guide = autoguide.AutoIAFNormal(model, hidden_dim=[8])
    objective = dsvi.PathwiseELBO(num_particles=2)
    objective.loss(model, guide)
    draws = Draws(f"_{guide._pyro_name}_latent")
    with draws, dsvi.handlers.antithetic():
        objective.loss(model, guide)
    z = draws.values[0]
    for transform in reversed(draws.laws[0].transforms):
        z = transform.inv(z)
    torch.testing.assert_close(z[0], -z[1], rtol=0, atol=1e-4)


def test_plates_within_and_around():
    """Every element of every plate is mirrored by itself, subsampled plates too."""
    drawn = []

    def guide():
        rows, columns = pyro.plate("rows", 5, subsample_size=3, dim=-2), pyro.plate("columns", 2)
        with rows, columns:
            drawn.append(pyro.sample("z", dist.Laplace(f64(M), f64(S)).expand([3]).to_event(1)))

    for wrap in (False, True):
        handler = dsvi.handlers.antithetic()
        program = handler(guide) if wrap else guide
        with nullcontext() if wrap else handler:
            dsvi.PathwiseELBO(num_particles=4, max_plate_nesting=2, vectorize_particles=True).loss(
                guide, program
            )
        z = drawn[-2]
        assert z.shape == (4, 3, 2, 3)
        torch.testing.assert_close(z[0::2] + z[1::2], f64(2 * M).expand(2, 3, 2, 3))


def test_a_dimension_left_of_the_particles():
    """Where a site is drawn for each value of another, the particles' axis is not the first."""
    law = reparameterisation(dist.Normal(torch.zeros(2, 4, 3), 1.0))
    assert law is not None
    noise = dsvi.handlers.antithetic().noise("z", law, Seat(4, axis=1))
    assert noise.shape == (2, 4, 3)
    assert torch.equal(noise[:, ::2], -noise[:, 1::2])
    assert len(noise.abs().unique()) == 12


@MODES
def test_a_part_of_a_guide_inside_a_plate(side_by_side):
    """What is wrapped knows of the plates around it: an element has noise of its own."""
    drawn = []

    @dsvi.handlers.antithetic
    def part():
        drawn.append(pyro.sample("z", dist.Normal(f64(M), f64(S))))

    def guide():
        with pyro.plate("data", 5):
            part()

    def model():
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(f64(0.0), 1.0))

    dsvi.PathwiseELBO(num_particles=2, vectorize_particles=side_by_side, max_plate_nesting=1).loss(
        model, guide
    )
    z = values(drawn if side_by_side else drawn[-2:], side_by_side)
    torch.testing.assert_close(z.sum(0), f64(2 * M).expand(5), rtol=0, atol=1e-15)
    assert len(z.unique()) == 10


def test_an_error_leaves_no_handler_behind():
    def failing():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        raise KeyError("of the guide's own")

    wrapped = dsvi.handlers.antithetic(failing)
    for _ in range(2):
        with pytest.raises(KeyError), pyro.plate("data", 3), pytest.warns(DSVIWarning):
            wrapped()
        assert not poutine.runtime.am_i_wrapped()
        wrapped = dsvi.handlers.antithetic(failing)
    handler = dsvi.handlers.antithetic()
    with handler, pytest.raises(ValueError, match="twice"), handler:
        pass
    assert not poutine.runtime.am_i_wrapped()


def test_estimators_that_draw_by_themselves_are_left_alone():
    model, guide, _ = pair_of(lambda: dist.Bernoulli(f64(0.3)), lambda z: z)
    relaxed = dsvi.GumbelSoftmax(0.5)
    objective = dsvi.Objective(dsvi.bounds.Evidence(), num_particles=2, estimators={"z": relaxed})
    biased = pytest.warns(dsvi.errors.BiasedEstimatorWarning)
    told = pytest.warns(UncontrolledNoiseWarning, match="'z'.*GumbelSoftmax draws by itself")
    with dsvi.handlers.antithetic(), biased, told:
        objective.loss(model, guide)


@pytest.mark.parametrize("name", ["antithetic", "quasi_monte_carlo"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_training(name, wrapped):
    """Steps of SVI, as a user takes them: the posterior mean, with far less noise at the end."""

    def model():
        z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=f64(1.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", f64(0.0)), f64(0.5**0.5)))

    handler = getattr(dsvi.handlers, name)()
    program = handler(guide) if wrapped else guide
    svi = pyro.infer.SVI(
        model, program, pyro.optim.SGD({"lr": 0.1}), dsvi.PathwiseELBO(num_particles=2)
    )
    with nullcontext() if wrapped else handler:
        for _ in range(100):
            svi.step()
    tolerance = 1e-6 if name == "antithetic" else 0.2
    assert float(pyro.param("m").detach()) == pytest.approx(0.5, abs=tolerance)


def test_broadcasting_is_still_tried_with_a_wrapped_guide():
    """The trial of a wrapped guide runs with ordinary draws, and side by side is found to work."""
    model, guide, drawn = pair_of(normal, lambda z: z)
    dsvi.PathwiseELBO(num_particles=2).loss(model, dsvi.handlers.antithetic(guide))
    assert drawn[-1].shape == (2,)
    torch.testing.assert_close(drawn[-1].sum(), f64(2 * M))


def test_given_values_stay():
    """A value from a handler inside or outside a wrapped guide is not drawn again."""
    model, guide, drawn = pair_of(normal, lambda z: z)
    conditioned = poutine.condition(guide, data={"z": f64(4.0)})
    objective = dsvi.PathwiseELBO(num_particles=2, vectorize_particles=False)
    for program in (
        poutine.condition(dsvi.handlers.antithetic(guide), data={"z": f64(4.0)}),
        dsvi.handlers.antithetic(conditioned),
    ):
        drawn.clear()
        objective.loss(poutine.condition(model, data={"z": f64(4.0)}), program)
        assert [float(z) for z in drawn] == [4.0, 4.0]


def test_a_branch_without_partner_draws_for_itself():
    """Particles that visit different sites keep their law; what both visit is mirrored."""
    drawn: dict[str, list[float]] = {"a": [], "left": [], "right": []}

    def guide():
        a = pyro.sample("a", dist.Normal(f64(0.0), 1.0))
        side = "left" if a > 0 else "right"
        drawn["a"].append(float(a))
        drawn[side].append(float(pyro.sample(side, dist.Normal(f64(0.0), 1.0))))

    with dsvi.handlers.antithetic():
        dsvi.PathwiseELBO(num_particles=4, vectorize_particles=False).loss(guide, guide)
    a = drawn["a"][::2]
    assert a[0] == -a[1]
    assert a[2] == -a[3]
    assert len({*drawn["left"], *drawn["right"]}) == 4


# -- what else a step may hold ---------------------------------------------------------------

NODES, WEIGHTS = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / math.sqrt(2 * math.pi)


def mixed_copies(size: int, estimators, handler, seed: int = 0):
    """Gradient in eta of estimates with a bit whose logit is upstream noise: exact and drawn.

    z ~ N(m, s) by its path, b ~ Bernoulli(logits=eta + z), then y ~ N(b, 1) by its path again;
    f = (b - 0.3)² y + z b.
    """
    torch.manual_seed(seed)
    eta = torch.full((size,), 0.4, dtype=torch.float64, requires_grad=True)
    m = torch.full((size,), M, dtype=torch.float64, requires_grad=True)

    def program(eta, m, model):
        with pyro.plate("copies", size):
            with poutine.mask(mask=False):
                z = pyro.sample("z", dist.Normal(m, S))
                b = pyro.sample("b", dist.Bernoulli(logits=eta + z))
                y = pyro.sample("y", dist.Normal(b, f64(1.0)))
            if model:
                pyro.factor("f", (b - 0.3) ** 2 * y + z * b)

    objective = dsvi.Objective(
        dsvi.bounds.Evidence(), num_particles=2, vectorize_particles=True, estimators=estimators
    )
    with handler:
        loss = objective.differentiable_loss(
            lambda: program(eta.detach(), m.detach(), True), lambda: program(eta, m, False)
        )
    gradient = torch.autograd.grad(loss, (eta, m))
    return [-g for g in gradient]


def mixed_truth() -> list[float]:
    eta, m = f64(0.4).requires_grad_(), f64(M).requires_grad_()
    z = m + S * NODES
    p = torch.sigmoid(eta + z)
    value = (WEIGHTS * p * (0.7**2 + z)).sum()
    return [float(g) for g in torch.autograd.grad(value, (eta, m))]


@pytest.mark.parametrize("baseline", [None, dsvi.LeaveOneOut()], ids=["none", "leave-one-out"])
def test_score_sites_beside_mirrored_noise_stay_unbiased(baseline):
    """The rival's noise is the mirror image of one's own, upstream and downstream of the bit.

    But the bit's own randomness is not: given all noise, its score still has mean zero.
    """
    handler = dsvi.handlers.antithetic()
    with pytest.warns(UncontrolledNoiseWarning, match="'b'.* does not differentiate through"):
        drawn = mixed_copies(100_000, {"b": dsvi.ScoreFunction(baseline)}, handler)
    for gradient, expected in zip(drawn, mixed_truth(), strict=True):
        assert_mean(gradient, expected)


def scored(monkeypatch=None) -> Tensor:
    """Gradient in m of f = z³ by the score of a Normal site with leave-one-out."""
    if monkeypatch is not None:  # mirror the site all the same
        monkeypatch.setattr(dsvi.ScoreFunction, "passes_gradient", True)
    objective = dsvi.ScoreFunctionELBO(
        dsvi.LeaveOneOut(), num_particles=2, vectorize_particles=True
    )
    torch.manual_seed(1)
    return copies(objective, lambda z: (z**3).detach(), dsvi.handlers.antithetic(), 100_000)[0]


def test_a_scored_site_is_left_alone():
    with pytest.warns(UncontrolledNoiseWarning, match="'z'.*ScoreFunction does not diff"):
        gradient = scored()
    assert_mean(gradient, 3 * (M**2 + S**2))


def test_mirroring_a_scored_site_would_be_biased(monkeypatch):
    """Why it is left alone: leave-one-out would see the site's own draw in its rival's."""
    gradient = scored(monkeypatch)
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(float((gradient.mean() - 3 * (M**2 + S**2)) / error)) > 20


UNCONTROLLED = {
    "Gamma": (lambda: dist.Gamma(f64(2.0), f64(1.0)), "Gamma does not draw by an inverse"),
    "StudentT": (lambda: dist.StudentT(f64(3.0)), "StudentT does not draw by an inverse"),
    "Poisson": (lambda: dist.Poisson(f64(2.0)), "ScoreFunction does not differentiate"),
}


@pytest.mark.parametrize("name", UNCONTROLLED)
def test_what_cannot_be_controlled_is_said_once(name):
    q, reason = UNCONTROLLED[name]
    model, guide, _ = pair_of(q, lambda z: z)
    objective = dsvi.MixedELBO(num_particles=2)
    handler = dsvi.handlers.antithetic()
    with handler:
        with pytest.warns(UncontrolledNoiseWarning, match=f"'z'.*{reason}") as said:
            objective.loss(model, guide)
        objective.loss(model, guide)
    assert len(said) == 1


def test_a_point_mass_has_no_noise_to_speak_of():
    model, guide, _ = pair_of(lambda: dist.Delta(pyro.param("m", f64(M))), lambda z: z)
    with dsvi.handlers.antithetic():
        dsvi.PathwiseELBO(num_particles=2).loss(model, guide)


def test_one_particle_is_said_to_be_alone():
    model, guide, _ = pair_of(normal, lambda z: z)
    with dsvi.handlers.antithetic(), pytest.warns(DSVIWarning, match="one particle at a time"):
        dsvi.PathwiseELBO().loss(model, guide)


def test_pyros_own_objective():
    """Particles side by side are seen under any objective; those in a loop of Pyro's are not."""
    model, guide, drawn = pair_of(normal, lambda z: z)
    elbo = pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=0)
    for wrap in (False, True):
        handler = dsvi.handlers.antithetic()
        with nullcontext() if wrap else handler:
            elbo.loss_and_grads(model, handler(guide) if wrap else guide)
        torch.testing.assert_close(drawn[-1].sum(), f64(2 * M))
    loop = pyro.infer.Trace_ELBO(num_particles=2)
    with dsvi.handlers.antithetic(), pytest.warns(DSVIWarning, match="one particle at a time"):
        loop.loss(model, guide)


# -- bounds of several samples ---------------------------------------------------------------


def gaussian_copies(objective, handler, size: int):
    """An importance-weighted bound and its gradient, for each copy: p = N(0, 1), x = 1 | z."""
    m = torch.full((size,), M, dtype=torch.float64, requires_grad=True)

    def model():
        with pyro.plate("copies", size):
            z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=f64(1.0))

    def guide():
        with pyro.plate("copies", size):
            pyro.sample("z", dist.Normal(m, f64(S)))

    with handler:
        loss = objective.differentiable_loss(model, guide)
    return -float(loss.detach()) / size, -torch.autograd.grad(loss, m)[0]


def log_w(m: Tensor, noise: Tensor) -> Tensor:
    z = m + S * noise
    prior = -(z**2) / 2 - (1 - z) ** 2 / 2 - math.log(2 * math.pi)
    return prior + noise**2 / 2 + math.log(S) + math.log(2 * math.pi) / 2


def test_importance_weighted_bound_is_that_of_the_pair():
    """It warns; its value and gradient are those of mirrored pairs, by quadrature, below log p."""
    m = f64(M).requires_grad_()
    both = torch.logaddexp(log_w(m, NODES), log_w(m, -NODES)) - math.log(2)
    expected = (WEIGHTS * both).sum()
    (slope,) = torch.autograd.grad(expected, m)
    expected = expected.detach()
    with pytest.warns(DependentParticlesWarning, match="not that of independent ones"):
        value, gradient = gaussian_copies(
            dsvi.IWAE(2, vectorize_particles=True), dsvi.handlers.antithetic(), 200_000
        )
    assert_mean(gradient, float(slope))
    assert value == pytest.approx(float(expected), abs=2e-3)
    evidence = float(dist.Normal(f64(0.0), math.sqrt(2.0)).log_prob(f64(1.0)))
    independent, _ = gaussian_copies(dsvi.IWAE(2, vectorize_particles=True), nullcontext(), 200_000)
    assert independent + 0.01 < value < evidence


@MODES
def test_frozen_densities_under_such_a_bound_are_refused(side_by_side):
    objective = dsvi.DReG(2, vectorize_particles=side_by_side)
    with pytest.raises(IncompatibleSite, match=r"'z': antithetic\(\) .* independent ones"):
        gaussian_copies(objective, dsvi.handlers.antithetic(), 3)


def test_what_is_refused_would_be_biased(monkeypatch):
    monkeypatch.setattr(Coupling, "_check_bound", lambda *_: None)
    m = f64(M).requires_grad_()
    both = torch.logaddexp(log_w(m, NODES), log_w(m, -NODES)) - math.log(2)
    (slope,) = torch.autograd.grad((WEIGHTS * both).sum(), m)
    _, gradient = gaussian_copies(
        dsvi.DReG(2, vectorize_particles=True), dsvi.handlers.antithetic(), 200_000
    )
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(float((gradient.mean() - slope) / error)) > 10


def test_frozen_densities_under_the_evidence_bound_stay_unbiased():
    """Sticking the landing needs each particle's own law alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, gradient = gaussian_copies(
            dsvi.STL(num_particles=2, vectorize_particles=True),
            dsvi.handlers.antithetic(),
            50_000,
        )
    m = f64(M).requires_grad_()
    expected = (WEIGHTS * log_w(m, NODES)).sum()
    (slope,) = torch.autograd.grad(expected, m)
    # Linear in the noise, so nothing is left to chance.
    torch.testing.assert_close(gradient, slope.expand(50_000), rtol=0, atol=1e-12)
    assert value == pytest.approx(float(expected.detach()), abs=0.02)
