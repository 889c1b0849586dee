"""Sums over supports: exact at every step, beside any other estimator, and refused by name."""

import itertools
import math
from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param, sample

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage, OptimalScale
from pyro_dsvi.bounds import Evidence
from tests import oracles
from tests.contracts.cases import LOOP, ONE, TWO, Mode
from tests.oracles import Answer, Exact, assert_same, truth
from tests.scenarios import (
    BIT,
    SCENARIOS,
    Group,
    Latent,
    Played,
    Scenario,
    bernoulli,
    f64,
    flip,
    gauss,
    normal,
)

MODES = (ONE, TWO, LOOP)
# Whose sites can all take their whole support: no Python branches, no bits in one event.
WHOLE = [
    name
    for name, scenario in SCENARIOS.items()
    if scenario.discrete == list(scenario.latents) and name not in ("branch", "events")
]


def objective(estimators, mode: Mode = ONE, bound=None, **options) -> dsvi.Objective:
    return dsvi.Objective(
        bound or Evidence(),
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators=estimators,
        **options,
    )


def one_step(objective: dsvi.Objective, scenario: Scenario) -> Answer:
    """A single step, from the start values: whatever is drawn, is drawn at random."""
    exact = Exact(objective, scenario, side_by_side=True, warm_up=0)
    loss = objective.loss_and_grads(scenario.model, scenario.guide)
    gradient = {
        name: torch.zeros_like(p) if p.grad is None else -p.grad
        for name, p in exact.parameters.items()
    }
    return Answer(f64(-loss), gradient)


# -- every site by its whole support: no variance at all ---------------------------------------


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"analytic_kl": True}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_one_step_is_the_truth(name, mode, options):
    scenario = SCENARIOS[name]
    every = dict.fromkeys(scenario.latents, dsvi.Enumerate())
    actual = one_step(objective(every, mode, **options), scenario)
    assert_same(actual, truth(scenario, oracles.evidence, 1))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_the_value_alone(name, mode):
    scenario = SCENARIOS[name]
    every = dict.fromkeys(scenario.latents, dsvi.Enumerate())
    exact = Exact(objective(every, mode), scenario, side_by_side=True, warm_up=0)
    loss = exact.objective.loss(scenario.model, scenario.guide)
    assert -loss == pytest.approx(float(truth(scenario, oracles.evidence, 1).value), abs=1e-10)


# -- some sites by their support, the others by their score ------------------------------------

BASELINES = {
    "none": lambda: None,
    "leave-one-out": LeaveOneOut,
    "scaled moving average": lambda: OptimalScale(MovingAverage()),
}
TURNS = {ONE: "scaled moving average", TWO: "leave-one-out", LOOP: "none"}
# 256 to 4,096 outcomes with two particles.
MANY = [("masked", "b"), ("shared", "g"), ("chain", "b0"), ("chain", "b2")]


def some() -> Iterator[tuple[str, tuple[str, ...], Mode, bool]]:
    """Every program with every choice of some of its sites, live and frozen in turns."""
    turn = 0
    for name, scenario in SCENARIOS.items():
        if name not in WHOLE and name != "events":
            continue
        for n in range(1, len(scenario.latents)):
            for whole in itertools.combinations(scenario.latents, n):
                many = name in ("nested", "events") or (name, whole[0]) in MANY
                for mode in (ONE,) if many else MODES:
                    if "bits" not in whole:
                        yield name, whole, mode, turn % 3 == 0
                        turn += 1


@pytest.mark.parametrize(("name", "whole", "mode", "frozen"), list(some()), ids=str)
def test_beside_score_functions(name, whole, mode, frozen):
    """Upstream and downstream of each other, in the plates of each other and outside."""
    scenario = SCENARIOS[name]
    score = dsvi.ScoreFunction(BASELINES[TURNS[mode]]())
    estimators = {n: dsvi.Enumerate() if n in whole else score for n in scenario.latents}
    exact = Exact(objective(estimators, mode, frozen=frozen), scenario, side_by_side=True)
    assert_same(exact.explored_expectation(), truth(scenario, oracles.evidence, 1))


# -- beside Normal sites ------------------------------------------------------------------------

FEW = 3


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_beside_pathwise_sites(name, mode):
    """A path through a draw upstream of the support, and through one draw for each value."""
    scenario = SCENARIOS[name]
    exact = Exact(
        objective({"b": dsvi.Enumerate()}, mode), scenario, side_by_side=mode.side_by_side
    )
    expected = truth(scenario, oracles.evidence, 1, FEW)
    assert_same(exact.expectation(FEW), expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("z", [dsvi.Pathwise(), dsvi.ScoreFunction()])
@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_frozen_or_scored_normal_sites(name, z, frozen):
    """What takes an integration by parts, with as many nodes as that takes."""
    scenario = SCENARIOS[name]
    estimators = {"b": dsvi.Enumerate(), "z": z}
    exact = Exact(objective(estimators, frozen=frozen), scenario, side_by_side=True)
    actual = exact.expectation_in_copies(24)
    oracles.assert_same_gradient(actual, truth(scenario, oracles.evidence, 1, 24).gradient)


@pytest.mark.parametrize("name", ["normal_first", "normal_last"])
def test_closed_forms_beside_a_support(name):
    """The KL of the Normal site stands under the sum over the support, too."""
    scenario = SCENARIOS[name]
    exact = Exact(objective({"b": dsvi.Enumerate()}, analytic_kl=True), scenario, side_by_side=True)
    actual = exact.expectation_in_copies(24)
    oracles.assert_same_gradient(actual, truth(scenario, oracles.evidence, 1, 24).gradient)


# -- what it costs, and what it is told of -------------------------------------------------------


def many_model(size: int = 40):
    for i in range(size):
        gauss(f"x{i}", flip(f"b{i}", param("prior")), 0.0, obs=f64(0.4))


def many_guide(size: int = 40):
    for i in range(size):
        flip(f"b{i}", param("eta"))


def test_independent_sites_add():
    """Forty bits have 2**40 joint values, and eighty costs have two each."""
    every = objective({f"b{i}": dsvi.Enumerate() for i in range(40)})
    pyro.param("prior", f64(-0.4)), pyro.param("eta", f64(0.3))
    alone = objective({"b0": dsvi.Enumerate()}).loss(lambda: many_model(1), lambda: many_guide(1))
    assert every.loss(many_model, many_guide) == pytest.approx(40 * alone, rel=1e-12)


def linked_model(steps: range):
    b = f64(0.0)
    for t in steps:
        b = flip(f"b{t}", param("prior") + 0.8 * b)
        gauss(f"x{t}", param("slope") * b, 0.0, obs=f64(0.1 * t))


def linked_guide(steps: range):
    b = f64(0.0)
    for t in steps:
        b = flip(f"b{t}", param("eta") + param("follow") * b)


def linked_by_hand(θ, length: int):
    """The same bound, by the probability of each bit from that of the one before it."""
    value, p, bits = f64(0.0), f64([1.0, 0.0]), f64([0.0, 1.0])
    for t in range(length):
        before, now = bits.unsqueeze(-1), bits
        log_q = bernoulli(θ["eta"] + θ["follow"] * before, now)
        cost = bernoulli(θ["prior"] + 0.8 * before, now) - log_q
        cost = cost + normal(0.1 * t, θ["slope"] * now, 0.0)
        joint = p.unsqueeze(-1) * log_q.exp()
        value, p = value + (joint * cost).sum(), joint.sum(0)
    return value


@pytest.mark.parametrize("iterate", [lambda steps: steps, pyro.markov], ids=["global", "markov"])
def test_a_chain_is_eliminated_link_by_link(iterate):
    """With dimensions of their own, or used again; more sites than einsum has letters."""
    length = 20 if iterate(range(2)) == range(2) else 60
    start = {"prior": -0.4, "slope": 1.1, "eta": 0.3, "follow": -0.7}
    θ = {name: f64(value).requires_grad_() for name, value in start.items()}
    expected = linked_by_hand(θ, length)
    gradient = torch.autograd.grad(expected, list(θ.values()))
    for name, value in start.items():
        pyro.param(name, f64(value))
    every = objective({f"b{t}": dsvi.Enumerate() for t in range(length)})
    programs = [lambda f=f: f(iterate(range(length))) for f in (linked_model, linked_guide)]
    loss = every.loss_and_grads(*programs)
    actual = {name: -pyro.param(name).grad for name in start}
    expected = Answer(expected.detach(), dict(zip(start, gradient, strict=True)))
    assert_same(Answer(f64(-loss), actual), expected, 1e-9)


KINDS = {
    "Bernoulli": (lambda logit: dist.Bernoulli(logits=logit), [0.0, 1.0]),
    "Binomial": (lambda logit: dist.Binomial(3, logits=logit), [0.0, 1.0, 2.0, 3.0]),
    "Categorical": (
        lambda logit: dist.Categorical(logits=logit.unsqueeze(-1) * f64([0.0, 1.0, -2.0])),
        [0, 1, 2],
    ),
    "OneHotCategorical": (
        lambda logit: dist.OneHotCategorical(logits=logit.unsqueeze(-1) * f64([0.0, 1.0, -2.0])),
        torch.eye(3, dtype=torch.float64).tolist(),
    ),
}


@pytest.mark.parametrize("infer", [{}, {"expand": True}], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_support_in_nested_plates(kind, mode, infer):
    """Whatever the support, and whether Pyro spreads it over the plates or not."""
    make, support = KINDS[kind]
    obs = f64([[0.3, -0.2, 0.8], [1.1, 0.4, -0.5]])

    def place(a):
        return (a * f64([0.3, -1.0, 0.8])).sum(-1) if kind == "OneHotCategorical" else 0.7 * a

    def model():
        with pyro.plate("outer", 2, dim=-2):
            a = sample("a", make(f64(0.4)))
            with pyro.plate("inner", 3, dim=-1):
                gauss("x", place(a), 0.0, obs=obs)

    def guide():
        with pyro.plate("outer", 2, dim=-2):
            sample("a", make(param("eta")), infer=infer)

    eta = f64([[0.5], [-0.8]]).requires_grad_()
    expected = f64(0.0)
    for value in support:
        a = torch.tensor(value) if kind == "Categorical" else f64(value)
        log_q = make(eta).log_prob(a)
        cost = make(f64(0.4)).log_prob(a) - log_q
        cost = cost + normal(obs, place(a), 0.0).sum(-1, keepdim=True)
        expected = expected + (log_q.exp() * cost).sum()
    (gradient,) = torch.autograd.grad(expected, eta)
    pyro.param("eta", eta.detach().clone())
    loss = objective({"a": dsvi.Enumerate()}, mode).loss_and_grads(model, guide)
    actual = Answer(f64(-loss), {"eta": -pyro.param("eta").grad})
    assert_same(actual, Answer(expected.detach(), {"eta": gradient}))


def test_an_impossible_value_costs_nothing():
    """Where q is zero, a cost may be infinite: zero times it is zero, in the gradient as well."""

    def model():
        b = sample("b", dist.Categorical(f64([0.5, 0.5])))
        pyro.factor("f", torch.where(b == 1, -torch.inf, param("slope")))

    def guide():
        sample("b", dist.Categorical(logits=torch.stack([param("one"), f64(-torch.inf)])))

    pyro.param("slope", f64(0.3)), pyro.param("one", f64(1.0))
    loss = objective({"b": dsvi.Enumerate()}).loss_and_grads(model, guide)
    assert -loss == pytest.approx(0.3 + math.log(0.5), abs=1e-10)
    assert pyro.param("slope").grad == -1


def test_a_branch_above_what_the_model_sums_out():
    """A support, a scored draw for each of its values, and a sum in the model below that."""

    def model():
        a = flip("a", param("prior"))
        with pyro.plate("data", 2):
            s = flip("s", 0.4 * a)
            m = flip("m", param("link") * s, infer={"enumerate": "parallel"})
            gauss("x", param("slope") * m + 0.3 * a, 0.1, obs=f64([0.9, -0.5]))

    def guide():
        a = flip("a", param("eta"))
        with pyro.plate("data", 2):
            flip("s", param("local") - 0.6 * a)

    def play(θ, z):
        a, s = z["a"].unsqueeze(-1), z["s"]
        log_q = bernoulli(θ["eta"], a[..., 0]) + bernoulli(θ["local"] - 0.6 * a, s).sum(-1)
        m = BIT.reshape(2, 1, 1)
        x = normal(f64([0.9, -0.5]), θ["slope"] * m + 0.3 * a, 0.1)
        below = (bernoulli(θ["link"] * s, m) + x).logsumexp(0)
        log_p = bernoulli(θ["prior"], a[..., 0]) + (bernoulli(0.4 * a, s) + below).sum(-1)
        return Played(log_q, [Group(log_p - log_q)])

    start = {"prior": 0.4, "link": -0.7, "slope": 1.2, "eta": 0.2, "local": [0.6, -0.5]}
    latents = {"a": Latent((), BIT), "s": Latent((2,), BIT)}
    scenario = Scenario(model, guide, start, latents, play)
    for baseline in (None, MovingAverage()):
        estimators = {"a": dsvi.Enumerate(), "s": dsvi.ScoreFunction(baseline)}
        exact = Exact(objective(estimators), scenario, side_by_side=True)
        assert_same(exact.explored_expectation(), truth(scenario, oracles.evidence, 1))
