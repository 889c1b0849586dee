"""The certificate: green for what is right, red for what is wrong; nothing is disturbed."""

import copy
import math
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import Baseline, LeaveOneOut, MovingAverage, Neural
from pyro_dsvi.diagnostics import (
    Certificate,
    Enumeration,
    Gradient,
    SecondEstimator,
    Verdict,
    check_unbiased,
    compare,
)
from pyro_dsvi.errors import InvalidArgument, NoReference
from pyro_dsvi.estimators import Bias, Estimator, Surrogate
from tests import oracles
from tests.contracts.cases import BOUNDS, LOOP, ONE, TWO, Mode
from tests.scenarios import SCENARIOS, Scenario, f64

BOUNDS = {name: BOUNDS[name] for name in ("evidence", "iwae", "renyi(0.5)")}
# 64 to 256 joint draws of two particles: once in a loop is enough.
MANY = ("events", "grid", "masked", "nested")


def programs(scenario: Scenario) -> tuple[Any, Any]:
    """The scenario's programs, its parameters being in the store."""
    pyro.clear_param_store()
    for name, value in scenario.parameters().items():
        pyro.param(name, value.detach())
    return scenario.model, scenario.guide


def check(name: str, objective: Any, **options: Any) -> Certificate:
    return check_unbiased(*programs(SCENARIOS[name]), objective, **options)


def assert_close(certificate: Certificate, side: str, answer: oracles.Answer) -> None:
    actual = {row.parameter: getattr(row, side) for row in certificate.rows}
    oracles.assert_same_gradient(
        dict(sorted(actual.items())), dict(sorted(answer.gradient.items()))
    )


# -- green -----------------------------------------------------------------------------------


def discrete() -> list[Any]:
    return [
        pytest.param(name, bound, mode, id=f"{name}-{bound}-{mode}")
        for name, scenario in SCENARIOS.items()
        for bound in BOUNDS
        for mode in (ONE, TWO, LOOP)
        if not scenario.copies
        and (scenario.broadcasts or mode is not TWO)
        and not (name in MANY and mode is LOOP and bound != "iwae")
    ]


@pytest.mark.parametrize(("name", "bound", "mode"), discrete())
def test_discrete_programs(name: str, bound: str, mode: Mode):
    """Exact on both sides, and the same numbers as the densities by hand."""
    baseline = MovingAverage() if mode.num_particles == 1 else LeaveOneOut()
    objective = dsvi.Objective(
        BOUNDS[bound][0],
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators=dict.fromkeys(SCENARIOS[name].discrete, dsvi.ScoreFunction(baseline)),
    )
    certificate = check(name, objective, num_samples=300)
    expected = oracles.truth(SCENARIOS[name], BOUNDS[bound][1], mode.num_particles)
    assert certificate.unbiased, str(certificate)
    assert_close(certificate, "reference", expected)
    if name == "nested" and mode.num_particles > 1:  # 4,096 joint draws are more than 300
        assert not certificate.exact
        assert {row.verdict for row in certificate.rows} == {Verdict.NO_BIAS_SEEN}
    else:
        assert certificate.exact
        assert {row.verdict for row in certificate.rows} == {Verdict.UNBIASED}
        assert_close(certificate, "mean", expected)


@pytest.mark.parametrize(
    ("name", "bound", "frozen"),
    [
        ("normal_first", "evidence", False),
        ("normal_first", "iwae", True),
        ("normal_last", "evidence", True),
        ("normal_last", "iwae", False),
        ("hierarchy", "iwae", True),
    ],
)
def test_programs_with_normal_sites(name: str, bound: str, frozen: bool):
    """The reference is a quadrature at the nodes that the oracle has too."""
    objective = dsvi.Objective(BOUNDS[bound][0], num_particles=2, frozen=frozen)
    certificate = check(name, objective, num_samples=100)
    expected = oracles.truth(SCENARIOS[name], BOUNDS[bound][1], 2, 16)
    assert_close(certificate, "reference", expected)
    assert certificate.unbiased, str(certificate)
    assert not certificate.exact
    assert "nodes of quadrature" in certificate.reference


def poisson_model():
    n = pyro.sample("n", dist.Poisson(f64(2.0)))
    pyro.sample("x", dist.Normal(n, f64(1.0)), obs=f64(3.0))


def poisson_guide():
    rate = pyro.param("rate", f64(2.5), constraint=dist.constraints.positive)
    pyro.sample("n", dist.Poisson(rate))


def test_a_count_is_cut_off_where_nothing_is_left():
    log_rate = f64(2.5).log().requires_grad_()
    n = torch.arange(100, dtype=torch.float64)
    log_q = n * log_rate - log_rate.exp() - (n + 1).lgamma()
    log_p = n * math.log(2.0) - 2.0 - (n + 1).lgamma() - (3.0 - n) ** 2 / 2
    value = (log_q.exp() * (log_p - math.log(2 * math.pi) / 2 - log_q)).sum()
    (expected,) = torch.autograd.grad(value, log_rate)
    certificate = check_unbiased(
        poisson_model, poisson_guide, dsvi.MixedELBO(num_particles=4), num_samples=500
    )
    torch.testing.assert_close(certificate["rate"].reference, expected, rtol=0, atol=1e-10)
    assert certificate.unbiased, str(certificate)


PYROS = {
    "Trace_ELBO": pyro.infer.Trace_ELBO(num_particles=2),
    "Trace_ELBO, vectorised": pyro.infer.Trace_ELBO(
        num_particles=2, vectorize_particles=True, max_plate_nesting=2
    ),
    "TraceGraph_ELBO": pyro.infer.TraceGraph_ELBO(),
    "TraceEnum_ELBO": pyro.infer.TraceEnum_ELBO(max_plate_nesting=2),
}


@pytest.mark.parametrize("kind", PYROS)
@pytest.mark.parametrize("name", ["chain", "shared", "tempered"])
def test_pyros_own_objectives(name: str, kind: str):
    model, guide = programs(SCENARIOS[name])
    if kind == "TraceEnum_ELBO":
        guide = pyro.infer.config_enumerate(guide)  # one branch after the other
    certificate = check_unbiased(model, guide, PYROS[kind])
    assert certificate.exact
    assert certificate.unbiased, str(certificate)


def test_a_baseline_in_pyros_param_store():
    """Its state is the same at every draw, is no parameter of the programs, and is gone after."""

    def guide():
        infer = {"baseline": {"use_decaying_avg_baseline": True}}
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta")), infer=infer)

    model, _ = programs(SCENARIOS["single"])
    certificate = check_unbiased(model, guide, pyro.infer.TraceGraph_ELBO())
    assert certificate.exact
    assert certificate.unbiased, str(certificate)
    assert set(pyro.get_param_store()) == {"prior", "slope", "eta"}
    assert {row.parameter for row in certificate.rows} == {"prior", "slope", "eta"}


def test_a_neural_baseline_has_no_row():
    net = torch.nn.Linear(1, 1).double()
    baseline = Neural(net, inputs=torch.ones(1, dtype=torch.float64))
    certificate = check("pair", dsvi.ScoreFunctionELBO(baseline))
    assert certificate.unbiased, str(certificate)
    assert {row.parameter for row in certificate.rows} == set(SCENARIOS["pair"].start)
    assert net.weight.grad is None


def test_single_precision():
    def model():
        with pyro.plate("data", 3):
            b = pyro.sample("b", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(b, 0.1), obs=torch.tensor([0.0, 0.9, 0.4]))

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", torch.zeros(3))))

    certificate = check_unbiased(model, guide, dsvi.MixedELBO(num_particles=2))
    assert certificate.exact
    assert certificate.unbiased, str(certificate)
    assert certificate["eta"].detectable < 1e-3 * certificate["eta"].reference.norm()


def test_leaves_without_a_name_and_modules():
    """Parameters that a program closes over, or that a module holds, have rows as well."""
    eta = f64([0.3, -0.2]).requires_grad_()
    eta.grad = f64([7.0, 7.0])

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(f64(1.2))

        def forward(self, x):
            with pyro.plate("data", 2):
                b = pyro.sample("b", dist.Bernoulli(f64(0.4)))
                pyro.sample("x", dist.Normal(self.slope * b, f64(1.0)), obs=x)

    def guide(x):
        with pyro.plate("data", 2):
            pyro.sample("b", dist.Bernoulli(logits=eta))

    certificate = check_unbiased(Model(), guide, dsvi.MixedELBO(num_particles=2), f64([0.1, 0.9]))
    assert [row.parameter for row in certificate.rows] == ["model.slope", "leaf 1"]
    assert certificate.exact
    assert certificate.unbiased, str(certificate)
    assert torch.equal(eta.grad, f64([7.0, 7.0]))


def test_one_minibatch_throughout():
    """Of the six that could have been drawn; another seed may draw another."""
    data = f64([0.5, -1.0, 2.0, 0.1])

    def plate():
        return pyro.plate("data", 4, subsample_size=2)

    def model():
        with plate() as i:
            b = pyro.sample("b", dist.Bernoulli(f64(0.4)))
            pyro.sample("x", dist.Normal(b, f64(1.0)), obs=data[i])

    def guide():
        eta = pyro.param("eta", f64([0.1, 0.2, 0.3, 0.4]))
        with plate() as i:
            pyro.sample("b", dist.Bernoulli(logits=eta[i]))

    seen = set()
    for seed in range(6):
        objective = dsvi.MixedELBO(num_particles=2)
        certificate = check_unbiased(model, guide, objective, seed=seed)
        assert certificate.exact
        assert certificate.unbiased, str(certificate)
        seen.add(tuple(certificate["eta"].reference.nonzero().flatten().tolist()))
    assert len(seen) > 1
    assert {len(minibatch) for minibatch in seen} == {2}


# -- red -------------------------------------------------------------------------------------


class MeanOfAll(Baseline):
    """The particles' mean, the particle itself included."""

    min_particles = 2

    def predict(self, visit):
        return visit.credit.mean(0, keepdim=True)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_baseline_that_looks_at_its_own_draw(bound: str):
    estimator = dsvi.ScoreFunction(MeanOfAll())
    options = {"num_particles": 2, "estimators": {"b": estimator}}
    certificate = check("single", dsvi.Objective(BOUNDS[bound][0], **options))
    assert certificate.exact
    assert [row.parameter for row in certificate.rows if not row.passes] == ["eta"]
    if bound == "evidence":  # of K particles, 1 - 1/K is left
        row = certificate["eta"]
        torch.testing.assert_close(row.mean, row.reference / 2, rtol=0, atol=1e-12)


@dataclass(frozen=True)
class PassThrough(Estimator):
    """Pretends that a bit is its probability, to the gradient."""

    bias: ClassVar[Bias] = Bias.BIASED
    passes_gradient: ClassVar[bool] = True

    def objection(self, q: Any) -> str | None:
        return None

    def draw(self, q: Any) -> Tensor:
        return q.sample() + (q.mean - q.mean.detach())

    def needs_credit(self, q: Any) -> bool:
        return False

    def score(self, q: Any, value: Tensor) -> Tensor:
        raise AssertionError("not asked for")

    def surrogate(self, visit: Any) -> Surrogate:
        raise AssertionError("not asked for")


def bit_model():
    b = pyro.sample("b", dist.Bernoulli(f64(0.5)))
    pyro.sample("x", dist.Normal(pyro.param("slope", f64(1.0)) * b, f64(0.3)), obs=f64(0.5))


def straight_guide():
    infer = {"estimator": PassThrough()}
    pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", f64(1.2))), infer=infer)


def test_straight_through():
    """Its draws are its own, so it is sampled; the warning that it is biased is not repeated."""
    objective = dsvi.Objective(dsvi.bounds.Evidence())
    certificate = check_unbiased(bit_model, straight_guide, objective, num_samples=400)
    assert not certificate.exact
    assert certificate.estimate == "mean of 400 steps"
    assert certificate["eta"].verdict is Verdict.BIASED
    assert certificate["slope"].passes  # no draw stands between it and the loss


class ByHand:
    """An objective by hand: the surrogate of K traces, in the manner of Pyro's own."""

    def __init__(self, surrogate: Any, num_particles: int = 1) -> None:
        self.surrogate = surrogate
        self.num_particles = num_particles

    def loss_and_grads(self, model, guide, *args, **kwargs):
        traces = []
        for _ in range(self.num_particles):
            q = poutine.trace(guide).get_trace(*args, **kwargs)
            traces.append((q, poutine.trace(poutine.replay(model, q)).get_trace(*args, **kwargs)))
        (-self.surrogate(traces)).backward()


@pytest.mark.parametrize("densities", ["live", "frozen"])
@pytest.mark.parametrize("credit", ["live", "frozen"])
def test_credit_of_frozen_densities_beside_live_ones(credit: str, densities: str):
    """B beside live densities and B - B'_k beside frozen ones are right; the mixtures are not."""
    bound = dsvi.bounds.IWAE()

    def surrogate(traces):
        log_p = torch.stack([p.log_prob_sum() for _, p in traces])
        log_q = torch.stack([q.log_prob_sum() for q, _ in traces])
        log_w = log_p - (log_q.detach() if densities == "frozen" else log_q)
        weight = bound.value(log_w).detach() - (bound.slope(log_w) if credit == "frozen" else 0)
        return bound.value(log_w) + (weight * log_q).sum()

    certificate = check("pair", ByHand(surrogate, num_particles=2), bound=bound)
    assert certificate.exact
    assert certificate.unbiased == (credit == densities), str(certificate)


def test_what_pyro_leaves_out():
    """Known differences, as the README tells them."""
    auxiliary = check("auxiliary", pyro.infer.Trace_ELBO())
    assert [row.parameter for row in auxiliary.rows if not row.passes] == ["aux"]
    renyi = pyro.infer.RenyiELBO(alpha=0.0, num_particles=2)
    certificate = check("single", renyi, bound=dsvi.bounds.IWAE())
    assert certificate["eta"].verdict is Verdict.BIASED
    assert float(certificate["eta"].mean) == 0
    assert certificate["slope"].verdict is Verdict.UNBIASED


# -- another estimator as the reference ------------------------------------------------------

FEW = SecondEstimator(num_samples=300)


@pytest.mark.parametrize(
    ("name", "objective", "told"),
    [
        ("hierarchy", dsvi.PathwiseELBO(), "by the score with leave-one-out at z, y"),
        ("hierarchy", dsvi.ScoreFunctionELBO(), "by the path at z, y"),
        ("hierarchy", dsvi.STL(), "by the path at z, y"),
        ("hierarchy", dsvi.DReG(2), "of 2 particles by the path at z, y"),
        ("single", pyro.infer.Trace_ELBO(), "of 16 particles by the score with leave-one-out at b"),
        ("normal_last", pyro.infer.Trace_ELBO(), "by the score with leave-one-out at b, z"),
    ],
    ids=["pathwise", "score", "frozen", "frozen K-sample", "Pyro, bit", "Pyro, Normal"],
)
def test_second_estimator(name: str, objective: Any, told: str):
    """It is named, and its error counts."""
    certificate = check(name, objective, num_samples=300, reference=FEW)
    assert certificate.unbiased, str(certificate)
    assert certificate.reference.startswith("mean of 300 steps of ")
    assert told in certificate.reference
    assert not certificate.exact
    bound = oracles.evidence if not isinstance(objective, dsvi.DReG) else oracles.renyi(0.0)
    truth = oracles.truth(SCENARIOS[name], bound, getattr(objective, "num_particles", 1), 16)
    for row in certificate.rows:  # at the scale of the errors it tells
        off = (row.reference - truth.gradient[row.parameter]).abs()
        assert (off <= 5 * row.standard_error + 1e-12).all(), row.parameter


def test_second_estimator_ignores_what_a_site_asks_for():
    objective = dsvi.Objective(dsvi.bounds.Evidence())
    options = {"num_samples": 400, "reference": FEW}
    certificate = check_unbiased(bit_model, straight_guide, objective, **options)
    assert "by the score with leave-one-out at b" in certificate.reference
    assert certificate["eta"].verdict is Verdict.BIASED


def test_too_many_draws_go_to_a_second_estimator():
    def model():
        with pyro.plate("data", 20):
            b = pyro.sample("b", dist.Bernoulli(f64(0.3)))
            pyro.sample("x", dist.Normal(b, f64(1.0)), obs=torch.linspace(-1, 2, 20).double())

    def guide():
        with pyro.plate("data", 20):
            pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", f64([0.0] * 20))))

    certificate = check_unbiased(model, guide, pyro.infer.Trace_ELBO(), num_samples=100)
    assert certificate.reference == (
        "mean of 2000 steps of 16 particles by the score with leave-one-out at b"
    )
    assert certificate.unbiased
    with pytest.raises(NoReference, match=r"more than 2048 joint draws.*'b': Bernoulli has no oth"):
        check_unbiased(model, guide, dsvi.MixedELBO(num_particles=2))


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 99}, "num_samples must be at least 100, got 99"),
        ({"level": 0.0}, "level must be between 0 and 1"),
        ({"level": 1.0}, "level must be between 0 and 1"),
        ({"reference": "enumeration"}, "expected a reference, got 'enumeration'"),
    ],
    ids=str,
)
def test_arguments(options: dict[str, Any], message: str):
    with pytest.raises(InvalidArgument, match=message):
        check("single", dsvi.MixedELBO(), **options)


def test_no_objective():
    with pytest.raises(InvalidArgument, match="expected an objective with loss_and_grads"):
        check("single", dsvi.bounds.Evidence())


@pytest.mark.parametrize(
    "objective",
    [pyro.infer.RenyiELBO(), pyro.infer.TraceTailAdaptive_ELBO(), ByHand(None)],
    ids=["RenyiELBO", "TraceTailAdaptive_ELBO", "the user's own"],
)
def test_a_bound_that_is_not_known(objective: Any):
    with pytest.raises(InvalidArgument, match=r"not known which bound \w+ estimates; say it by bo"):
        check("single", objective)


def test_an_objective_that_cannot_be_copied():
    objective = ByHand(None)
    objective.held = (n for n in range(3))
    with pytest.raises(InvalidArgument, match="ByHand cannot be copied"):
        check("single", objective, bound=dsvi.bounds.Evidence())


@pytest.mark.parametrize("options", [{"max_draws": 0}, {"max_joint_draws": 0}, {"nodes": 4}])
def test_arguments_of_enumeration(options: dict[str, int]):
    with pytest.raises(InvalidArgument, match="Enumeration"):
        Enumeration(**options)


@pytest.mark.parametrize("options", [{"num_samples": 1}, {"num_particles": 1}])
def test_arguments_of_the_second_estimator(options: dict[str, int]):
    with pytest.raises(InvalidArgument, match="SecondEstimator"):
        SecondEstimator(**options)


@pytest.mark.parametrize(
    ("name", "reference", "message"),
    [
        ("chain", Enumeration(max_draws=7), "more than 7 joint draws of a particle"),
        ("chain", Enumeration(max_joint_draws=63), "more than 63 joint draws of 2 particles"),
        ("normal_last", Enumeration(nodes=0), "site 'z': Normal is continuous"),
    ],
    ids=["draws", "joint draws", "continuous"],
)
def test_what_cannot_be_enumerated(name: str, reference: Enumeration, message: str):
    with pytest.raises(NoReference, match=message):
        check(name, dsvi.IWAE(2), reference=reference)


def test_a_site_neither_discrete_nor_normal():
    def model():
        pyro.sample("z", dist.Gamma(f64(2.0), f64(1.0)))

    def guide():
        pyro.sample("z", dist.Gamma(pyro.param("shape", f64(1.5)), f64(1.0)))

    with pytest.raises(NoReference, match="site 'z': Gamma is neither discrete nor Normal"):
        check_unbiased(model, guide, dsvi.MixedELBO(), reference=Enumeration())
    certificate = check_unbiased(model, guide, dsvi.MixedELBO(), num_samples=300, reference=FEW)
    assert certificate.unbiased


def test_no_density_and_no_second_path():
    class Implicit(dist.Exponential):
        def log_prob(self, value):
            raise NotImplementedError

    def guide():
        pyro.sample("z", Implicit(pyro.param("rate", f64(1.0))))

    with pytest.raises(NoReference, match="Implicit has no log density, so its draws have no sco"):
        check_unbiased(guide, guide, ByHand(None), bound=dsvi.bounds.Evidence())


def test_a_program_that_draws_outside_its_sites():
    def model():
        shift = torch.randn((), dtype=torch.float64)
        b = pyro.sample("b", dist.Bernoulli(f64(0.3)))
        pyro.sample("x", dist.Normal(b + shift, f64(1.0)), obs=f64(0.4))

    _, guide = programs(SCENARIOS["single"])
    with pytest.raises(NoReference, match="the programs draw outside their sample sites"):
        check_unbiased(model, guide, dsvi.MixedELBO(), reference=Enumeration())


def test_a_guide_that_is_no_function_of_its_draws():
    calls = iter(range(1000))
    model, _ = programs(SCENARIOS["single"])

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta") + next(calls) % 2))

    with pytest.raises(NoReference, match=r"the guide's draws sum to \d\.\d+"):
        check_unbiased(model, guide, dsvi.MixedELBO(), reference=Enumeration())


# -- nothing is disturbed --------------------------------------------------------------------


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


def snapshot() -> dict[str, Any]:
    return {
        name: (id(leaf), leaf.detach().tolist(), None if leaf.grad is None else leaf.grad.tolist())
        for name, leaf in pyro.get_param_store().named_parameters()
    }


@pytest.mark.parametrize("reference", [None, FEW], ids=["enumeration", "second estimator"])
@pytest.mark.parametrize("name", ["pair", "normal_last"])
def test_generators_parameters_and_gradients(name: str, reference: Any):
    model, guide = programs(SCENARIOS[name])
    for _, leaf in pyro.get_param_store().named_parameters():
        leaf.grad = torch.full_like(leaf, 3.0)
    states, params = random_states(), snapshot()
    objective = pyro.infer.Trace_ELBO()
    check_unbiased(model, guide, objective, num_samples=100, reference=reference)
    assert random_states() == states
    assert snapshot() == params


@pytest.mark.parametrize("where", ["objective", "site"])
def test_what_a_baseline_has_learnt(where: str):
    """Be it the objective's, of which a copy is checked, or the user's own, named at a site."""
    baseline = MovingAverage()
    mine = dsvi.ScoreFunction(baseline)
    infer = {"estimator": mine} if where == "site" else {}
    objective = dsvi.Objective(
        dsvi.bounds.Evidence(), estimators={"b": mine} if where == "objective" else {}
    )
    model, _ = programs(SCENARIOS["single"])

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta")), infer=infer)

    for _ in range(3):
        objective.loss_and_grads(model, guide)
    before, learnt = copy.deepcopy(objective.state_dict()), str(baseline.state_dict())
    assert check_unbiased(model, guide, objective).unbiased
    assert str(objective.state_dict()) == str(before)
    assert str(baseline.state_dict()) == learnt
    objective.loss_and_grads(model, guide)
    assert str(objective.state_dict()) != str(before)  # the comparison could have failed


def test_a_lazy_parameter_and_a_modules_buffers():
    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.tensor(0))

        def forward(self):
            self.calls += 1
            eta = pyro.param("eta", lambda: torch.randn((), dtype=torch.float64))
            pyro.sample("b", dist.Bernoulli(logits=eta))

    guide = Guide()
    model, _ = programs(SCENARIOS["single"])
    del pyro.get_param_store()["eta"]
    assert check_unbiased(model, guide, dsvi.MixedELBO()).exact
    assert int(guide.calls) == 0
    assert set(pyro.get_param_store()) == {"prior", "slope"}


def test_reproducible():
    """From the seed alone, whatever was drawn before."""

    def certificate(seed: int) -> str:
        torch.rand(seed + 3)
        return str(check("normal_last", dsvi.MixedELBO(), num_samples=100, seed=seed))

    first = certificate(0)
    assert certificate(0) == first
    assert certificate(1) != first


def test_baselines_learn_on_the_way():
    """A state that moves does not add bias, and is not that of the first step throughout."""
    moving = check("normal_last", dsvi.ScoreFunctionELBO(MovingAverage()), num_samples=300)
    still = check("normal_last", dsvi.ScoreFunctionELBO(), num_samples=300)
    assert moving.unbiased
    assert moving["eta"].standard_error < still["eta"].standard_error


# -- the statistics and the table ------------------------------------------------------------


def right(mean: Tensor) -> Gradient:
    return Gradient({"w": mean}, {"w": 0 * mean}, {"w": 0 * mean}, "by hand", exact=True)


def test_level_and_power():
    """Under the null the level holds over all elements; a bias as told is seen 98 times of 100."""
    wrong = seen = 0
    shape, truth = (400, 6), torch.zeros(6, dtype=torch.float64)
    for _ in range(300):
        samples = torch.randn(shape, dtype=torch.float64)
        null = compare(Gradient.of_samples({"w": samples}, "drawn"), right(truth), level=0.2)
        wrong += not null.unbiased
        samples[:, 3] += null.rows[0].detectable
        biased = compare(Gradient.of_samples({"w": samples}, "drawn"), right(truth), level=0.2)
        seen += not biased.unbiased
    assert 0.1 < wrong / 300 < 0.27  # 0.18 for independent elements
    assert seen / 300 > 0.95


def test_elements_without_variance():
    samples = {"w": torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64).expand(200, 3)}
    estimate = Gradient.of_samples(samples, "drawn")
    assert compare(estimate, right(f64([0.5 + 1e-15, 1.0, 0.0]))).unbiased
    row = compare(estimate, right(f64([0.5, 1.0 + 1e-9, 0.0]))).rows[0]
    assert row.verdict is Verdict.BIASED
    assert row.worst == (1,)
    assert row.z.tolist() == [0.0, -math.inf, 0.0]


def test_what_is_not_finite():
    samples = {"w": torch.tensor([0.5, math.nan]).expand(200, 2)}
    certificate = compare(Gradient.of_samples(samples, "drawn"), right(f64([0.5, 0.0])))
    assert certificate.rows[0].verdict is Verdict.NOT_FINITE
    assert not certificate.unbiased


def test_programs_without_parameters():
    def program():
        pyro.sample("b", dist.Bernoulli(f64(0.3)))

    certificate = check_unbiased(program, program, dsvi.MixedELBO())
    assert certificate.rows == ()
    assert certificate.unbiased
    assert "no parameters" in str(certificate)


def test_the_table_reads_well():
    certificate = check("data", dsvi.ScoreFunctionELBO())
    lines = str(certificate).splitlines()
    assert lines[0] == "gradient of Evidence(), 1 particle"
    assert lines[1] == "estimate:  every joint draw visited (4), weighted by its probability"
    assert lines[2] == "reference: enumeration of the 4 joint draws of b"
    table = lines[4:8]
    assert table[0].split()[:3] == ["parameter", "elements", "worst"]
    assert len({line.index("unbiased") for line in table[1:]}) == 1
    assert lines[-1] == "unbiased: the two agree within rounding"
    sampled = check("normal_last", dsvi.MixedELBO(), num_samples=400)
    last = str(sampled).splitlines()[-1]
    assert f"a bias of {sampled.detectable:.1%} of the gradient's norm" in last
    assert "biased: eta" in str(check("single", dsvi.ScoreFunctionELBO(), bound=Doubled()))


@dataclass(frozen=True)
class Doubled(dsvi.bounds.Evidence):
    """Another bound than the objective's."""

    def value(self, log_w: Tensor) -> Tensor:
        return 2 * log_w.mean(0)


def test_as_pandas_and_html():
    certificate = check("data", dsvi.ScoreFunctionELBO())
    frame = certificate.to_pandas()
    assert list(frame.index) == ["eta", "prior", "slope"]
    assert list(frame["verdict"]) == ["unbiased"] * 3
    assert frame.loc["prior", "mean"] == pytest.approx(float(certificate["prior"].mean))
    html = certificate._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>unbiased</td>" in html
    with pytest.raises(KeyError):
        certificate["nothing"]
