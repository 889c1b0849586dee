"""The bounds where log p(x) is known: in the limit of many particles, and by quadrature for few."""

import itertools
import math

import pyro
import pytest
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi import bounds
from tests import linear_gaussian as lg
from tests import oracles
from tests.contracts.test_bound_family import EVERY, FAMILY, objective
from tests.linear_gaussian import exact_lines, lines
from tests.oracles import assert_same_gradient
from tests.scenarios import f64, normal

NODES = 24  # at which the quadrature's error is below 1e-10, see test_quadrature_has_converged


def evenly(number: int = 40_000) -> Tensor:
    """Quantiles of a standard normal: an expectation under it is their mean."""
    u = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


def particles() -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Noise, the guide's parameters, log weights and log q at its quantiles, draws held."""
    θ = lines.parameters()
    held = {name: value.detach() for name, value in θ.items()}
    noise = evenly()
    (group,) = lines.play(held, {"z": noise}).groups
    x = [0.9, -0.4]

    def loc(p):
        return p["A0"] * x[0] + p["A1"] * x[1] + p["c"]

    z = loc(held) + held["log_r"].exp() * noise
    guide = {name: θ[name] for name in ("A0", "A1", "c", "log_r")}
    return noise, guide, group.log_w, normal(z, loc(θ), θ["log_r"])


# -- many particles: closed forms ----------------------------------------------------------------


def test_the_evidence_is_the_integral():
    found = bounds.IWAE().value(particles()[2])
    assert float(found) == pytest.approx(float(exact_lines().log_evidence()), abs=1e-5)


def test_the_elbo_in_closed_form():
    exact = exact_lines()
    elbo = exact.mean_log_weight(exact.tempered(0.0))
    by_quadrature = oracles.truth(lines, oracles.evidence, 1, NODES).value
    assert float(by_quadrature) == pytest.approx(float(elbo), abs=1e-12)
    assert elbo < exact.log_evidence()


@pytest.mark.parametrize("rule", bounds.Rule)
def test_the_thermodynamic_sum_in_closed_form(rule):
    exact, log_w = exact_lines(), particles()[2]
    tvo = bounds.TVO(bounds.LogUniform(4, first=0.05), rule)
    betas = tvo.partition.nodes(torch.zeros(1, dtype=torch.float64)).tolist()
    integrand = [float(exact.mean_log_weight(exact.tempered(beta))) for beta in betas]
    expected = 0.0
    for i, (low, high) in enumerate(itertools.pairwise(betas)):
        ends = (1 - rule.value) * integrand[i] + rule.value * integrand[i + 1]
        expected += (high - low) * ends
    assert float(tvo.value(log_w)) == pytest.approx(expected, abs=2e-4)
    evidence = float(exact.log_evidence())
    if rule is bounds.Rule.LEFT:
        assert integrand[0] < expected < evidence
    if rule is bounds.Rule.RIGHT:
        assert expected > evidence


def test_the_chi_bound_in_closed_form():
    exact, log_w = exact_lines(), particles()[2]
    expected = float(exact.log_moment(2.0)) / 2
    assert float(bounds.CUBO(2.0).value(log_w)) == pytest.approx(expected, abs=2e-4)
    assert expected > exact.log_evidence()
    assert float(exact.log_moment(1.0)) == pytest.approx(float(exact.log_evidence()), abs=1e-12)


def update(weights: Tensor, log_q: Tensor, guide: dict[str, Tensor]) -> dict[str, Tensor]:
    gradient = torch.autograd.grad((weights * log_q).sum(), list(guide.values()))
    return dict(zip(guide, gradient, strict=True))


def of_closed_form(value: Tensor, exact: lg.Exact) -> dict[str, Tensor]:
    A, c, log_r = torch.autograd.grad(value, [exact.θ[n] for n in ("A", "c", "log_r")])
    return {"A0": A[0, 0], "A1": A[0, 1], "c": c[0], "log_r": log_r[0]}


def differentiable() -> lg.Exact:
    exact = exact_lines()
    θ = {name: value.clone().requires_grad_() for name, value in exact.θ.items()}
    return lg.Exact(θ, exact.x)


def test_wake_phi_lowers_the_inclusive_divergence():
    """Consistent: with many particles it is the gradient of E_{p(z | x)}[log q]."""
    _, guide, log_w, log_q = particles()
    exact = differentiable()
    posterior = exact.tempered(1.0)
    at = torch.distributions.MultivariateNormal(
        posterior.mean.detach(), posterior.covariance_matrix.detach()
    )
    expected = of_closed_form(exact.expected_log_density(at, *exact.guide()), exact)
    actual = update(bounds.WakePhi().weight(log_w), log_q, guide)
    assert_same_gradient(actual, expected, 2e-4)


def test_the_covariance_estimator_is_consistent():
    """With many particles it is the gradient of the exact Riemann sum."""
    _, guide, log_w, log_q = particles()
    tvo = bounds.TVO(bounds.Points((0.1, 0.5)), bounds.Rule.TRAPEZOID)
    exact, total = differentiable(), f64(0.0)
    nodes = tvo.partition.nodes(f64([0.0]))
    for beta, weight in zip(nodes.tolist(), tvo.weights(nodes).tolist(), strict=True):
        total = total + weight * exact.mean_log_weight(exact.tempered(beta))
    actual = update(bounds.Covariance(tvo).weight(log_w), log_q, guide)
    assert_same_gradient(actual, of_closed_form(total, exact), 1e-3)


# -- few particles: quadrature -------------------------------------------------------------------


def expected_value(by_hand: oracles.Bound, num_particles: int, nodes: int) -> float:
    with torch.no_grad():
        draws = oracles.every_draw(lines, nodes)
        (group,) = lines.play(lines.parameters(), draws.values).groups
        index = torch.cartesian_prod(*[torch.arange(nodes)] * num_particles)
        index = index.reshape(-1, num_particles).T
        weight = draws.log_weight[index].sum(0).exp()
        return float((weight * by_hand(group.log_w[index])).sum())


def test_more_particles_are_tighter():
    """L_k >= L_m for k >= m, all below log p(x)."""
    by_hand = oracles.renyi(0.0)
    values = [expected_value(by_hand, K, NODES) for K in (1, 2, 3, 4)]
    assert all(low < high for low, high in itertools.pairwise(values))
    evidence = float(exact_lines().log_evidence())
    assert values[-1] < evidence
    # The gap falls like Var(w / p(x)) / (2 K).
    gaps = [evidence - value for value in values]
    variance = math.exp(float(exact_lines().log_moment(2.0)) - 2 * evidence) - 1
    assert gaps[-1] * 8 == pytest.approx(variance, rel=0.15)
    assert abs(gaps[-1] * 8 - variance) < abs(gaps[1] * 4 - variance)


def test_the_family_in_its_order():
    """ELBO <= MIWAE <= IWAE, TVO from the left below IWAE, all below log p(x)."""
    family = {name: expected_value(FAMILY[name].model, 2, NODES) for name in ("ciwae", "tvo, left")}
    elbo, iwae = (expected_value(f, 2, NODES) for f in (oracles.evidence, oracles.renyi(0.0)))
    for value in family.values():
        assert elbo < value < iwae
    right = expected_value(FAMILY["tvo, right"].model, 2, NODES)
    assert right > iwae
    four = expected_value(oracles.renyi(0.0), 4, 16)
    groups = expected_value(
        lambda log_w: sum(g.exp().mean(0).log() for g in log_w.chunk(2)) / 2, 4, 16
    )
    assert groups == pytest.approx(iwae, abs=1e-9)
    assert elbo < groups < four


@pytest.mark.parametrize("name", [n for n in FAMILY if n != "tvo, moments"])
def test_quadrature_has_converged(name):
    once, twice = (FAMILY[name].truth(lines, 2, n).gradient for n in (NODES, 2 * NODES))
    assert_same_gradient(once, twice)


PRESETS = {
    "iwae": (lambda **options: dsvi.IWAE(2, **options), oracles.renyi(0.0)),
    "dreg": (lambda **options: dsvi.DReG(2, **options), oracles.renyi(0.0)),
    "tvo": (
        lambda **options: dsvi.TVO(2, partition=bounds.Points((0.1, 0.4)), **options),
        FAMILY["tvo, left"].model,
    ),
    "tvo, frozen": (
        lambda **options: dsvi.TVO(2, partition=bounds.Points((0.1, 0.4)), frozen=True, **options),
        FAMILY["tvo, left"].model,
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_gradient_of_their_bound(name):
    make, by_hand = PRESETS[name]
    exact = oracles.Exact(make(vectorize_particles=True), lines, side_by_side=True)
    actual = exact.expectation_in_copies(NODES)
    expected = oracles.truth(lines, by_hand, 2, NODES)
    assert_same_gradient(actual, expected.gradient)
    assert float(expected.value) < float(exact_lines().log_evidence())


@pytest.mark.parametrize("frozen", [False, True])
def test_rws_by_density_and_by_path(frozen):
    """Model by IWAE; the guide's density at held draws, weighed, or the path with w (1 - w)."""
    made = dsvi.RWS(2, frozen=frozen, vectorize_particles=True)
    actual = oracles.Exact(made, lines, side_by_side=True).expectation_in_copies(NODES)
    expected = dict(oracles.truth(lines, oracles.renyi(0.0), 2, NODES).gradient)

    θ = lines.parameters()
    held = {name: value.detach() for name, value in θ.items()}
    draws = oracles.every_draw(lines, NODES)
    (group,) = lines.play(held, draws.values).groups
    x = [0.9, -0.4]
    loc, held_loc = (p["A0"] * x[0] + p["A1"] * x[1] + p["c"] for p in (θ, held))
    log_q = normal(held_loc + held["log_r"].exp() * draws.values["z"], loc, θ["log_r"])
    index = torch.cartesian_prod(*[torch.arange(NODES)] * 2).T
    weight = draws.log_weight[index].sum(0).exp()
    share = torch.softmax(group.log_w[index], 0)
    total = (weight * (share * log_q[index]).sum(0)).sum()
    guide = ["A0", "A1", "c", "log_r"]
    for name, gradient in zip(
        guide, torch.autograd.grad(total, [θ[n] for n in guide]), strict=True
    ):
        expected[name] = gradient
    assert_same_gradient(actual, expected)


# -- the tail-adaptive update --------------------------------------------------------------------


def test_tail_adaptive_paths_are_weighed_by_rank():
    """Two draws alike have the same rank, that of the better one's place."""
    noise = f64([0.3, -1.2, 0.3, 2.0])
    made = dsvi.TailAdaptive(4, vectorize_particles=True)
    exact = oracles.Exact(made, lines, side_by_side=True, warm_up=0)
    actual = exact.step({"z": noise})

    θ = lines.parameters()
    (group,) = lines.play(θ, {"z": noise}).groups
    log_w = group.log_w.detach()
    tail = torch.stack([(log_w >= own).double().mean() for own in log_w])
    gamma = (1 / tail) / (1 / tail).sum()
    x = [0.9, -0.4]
    loc = θ["A0"] * x[0] + θ["A1"] * x[1] + θ["c"]
    z = loc + θ["log_r"].exp() * noise
    frozen = normal(z, loc.detach(), θ["log_r"].detach())
    log_p = normal(z, 0.0, 0.0)
    for i, datum in enumerate(x):
        log_p = log_p + normal(datum, θ[f"W{i}"] * z + θ[f"b{i}"], θ["log_s"])
    by_path = torch.autograd.grad((gamma * (log_p - frozen)).sum(), list(θ.values()))
    expected = dict(zip(θ, by_path, strict=True))
    share = torch.softmax(log_w, 0)
    of_model = [name for name in θ if name not in ("A0", "A1", "c", "log_r")]
    log_p = normal(z.detach(), 0.0, 0.0)
    for i, datum in enumerate(x):
        log_p = log_p + normal(datum, θ[f"W{i}"] * z.detach() + θ[f"b{i}"], θ["log_s"])
    for name, gradient in zip(
        of_model,
        torch.autograd.grad((share * log_p).sum(), [θ[n] for n in of_model]),
        strict=True,
    ):
        expected[name] = gradient
    assert_same_gradient(actual.gradient, expected, 1e-12)


# -- several data, a minibatch -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["piwae", "rws", "tvo, left", "cubo"])
def test_a_minibatch_is_scaled_outside(name):
    """Two of six data: three times the gradient of the two by themselves, datum by datum."""
    x = f64([[0.9, -0.4], [-1.1, 0.3]])

    def gradient(*data, size=None):
        θ = lg.put(lg.start())
        bound = objective(EVERY[name].make(4), lines, K=4, max_plate_nesting=1)
        torch.manual_seed(0)
        loss = bound.loss_and_grads(lg.model, lg.guide, *data, size)
        return loss, {n: pyro.param(n).grad for n in θ}

    loss, whole = gradient(x)
    scaled_loss, scaled = gradient(x, size=6)
    assert scaled_loss == pytest.approx(3 * loss, rel=1e-12)
    for parameter, value in whole.items():
        torch.testing.assert_close(scaled[parameter], 3 * value, msg=parameter)
