"""Estimators that ask about other values, in programs of several sites: statistics and refusals.

Replicas of a program stand in a plate, with parameters of their own, so that one step gives a
sample of gradients, to be compared with the exact one.
"""

import warnings
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param, poutine, sample

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, PlatesMergedWarning
from tests.contracts.cases import BOUNDS, LOOP, ONE, TWO, Mode
from tests.oracles import truth
from tests.scenarios import (
    BIT,
    ONE_HOT,
    SCENARIOS,
    TWO_BITS,
    Group,
    Latent,
    Played,
    Scenario,
    bernoulli,
    categorical,
    f64,
    normal,
)

ESTIMATORS: dict[str, dsvi.estimators.Estimator] = {
    "ARM": dsvi.ARM(),
    "DisARM": dsvi.DisARM(),
    "MeasureValued": dsvi.MeasureValued(),
    "WithoutReplacement": dsvi.WithoutReplacement(2),
    "SumAndSample": dsvi.SumAndSample(1),
}
BY_ELEMENT = ("MeasureValued", "WithoutReplacement", "SumAndSample")
REPLICAS = 4000


# -- a one-hot site, an event of bits below it, and bits in a plate of their own ----------------

_DATA = f64([0.9, -0.5])


def _tree_model(copies: int) -> None:
    with pyro.plate("copies", copies, dim=-2):
        k = sample("k", dist.OneHotCategorical(logits=f64([0.2, 0.0, -0.4])))
        table = f64([[0.3, -0.2], [0.1, 0.6], [-0.5, 0.4]])
        bits = sample("bits", dist.Bernoulli(logits=k @ table).to_event(1))
        total = (bits * f64([1.1, -0.6])).sum(-1)
        sample("x", dist.Normal(total, f64(1.0)), obs=f64(0.7))
        with pyro.plate("inner", 2, dim=-1):
            b = sample("b", dist.Bernoulli(logits=0.4 * total))
            sample("y", dist.Normal(0.9 * b, f64(1.0)), obs=_DATA)


def _tree_guide(copies: int) -> None:
    with pyro.plate("copies", copies, dim=-2):
        k = sample("k", dist.OneHotCategorical(logits=param("eta").unsqueeze(-2)))
        logits = param("local").unsqueeze(-2) + k[..., :2]
        bits = sample("bits", dist.Bernoulli(logits=logits).to_event(1))
        with pyro.plate("inner", 2, dim=-1):
            sample("b", dist.Bernoulli(logits=param("inner") + 0.7 * bits[..., 0]))


def _tree(θ, z):
    k, bits, b = z["k"], z["bits"], z["b"]
    table = f64([[0.3, -0.2], [0.1, 0.6], [-0.5, 0.4]])
    log_q = categorical(θ["eta"], k) + bernoulli(θ["local"] + k[..., :2], bits).sum(-1)
    log_q = log_q + bernoulli(θ["inner"] + 0.7 * bits[..., :1], b).sum(-1)
    total = (bits * f64([1.1, -0.6])).sum(-1)
    log_p = categorical(f64([0.2, 0.0, -0.4]), k) + bernoulli(k @ table, bits).sum(-1)
    inner = bernoulli(0.4 * total.unsqueeze(-1), b) + normal(_DATA, 0.9 * b, 0.0)
    return Played(log_q, [Group(log_p + normal(0.7, total, 0.0) + inner.sum(-1) - log_q)])


TREE = Scenario(
    _tree_model,
    _tree_guide,
    {"eta": [0.1, -0.3, 0.4], "local": [0.2, -0.1], "inner": [0.5, -0.4]},
    {"k": Latent((), ONE_HOT), "bits": Latent((), TWO_BITS), "b": Latent((2,), BIT)},
    _tree,
    merges=True,
    copies=True,
)
PROGRAMS = {"tree": (TREE, 3), **{n: (SCENARIOS[n], 24) for n in ("normal_first", "normal_last")}}


def greatest_deviation(
    program: Scenario, estimators: dict, bound: str, mode: Mode, nodes: int, **options
) -> float:
    """The largest z-score of the mean gradient against the exact one, over all parameters."""
    start = {n: v.detach() for n, v in program.parameters().items()}
    copies = {n: param(n, v.expand(REPLICAS, *v.shape).clone()) for n, v in start.items()}
    objective = dsvi.Objective(
        BOUNDS[bound][0],
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators=estimators,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlatesMergedWarning)
        objective.loss_and_grads(lambda: program.model(REPLICAS), lambda: program.guide(REPLICAS))
    exact = truth(program, BOUNDS[bound][1], mode.num_particles, nodes).gradient
    scores = []
    for name, copy in copies.items():
        found = torch.zeros_like(copy) if copy.grad is None else -copy.grad
        error = found.std(0) / REPLICAS**0.5
        scores.append(((found.mean(0) - exact[name]) / (error + 1e-12)).abs().max())
    return float(torch.stack(scores).max())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("bound", "mode"), [("evidence", ONE), ("evidence", TWO), ("iwae", TWO), ("iwae", LOOP)]
)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_several_sites(name, program, bound, mode, frozen):
    """What lies downstream is drawn anew, discrete or not; what does not is held."""
    scenario, nodes = PROGRAMS[program]
    sites = scenario.discrete
    if name in BY_ELEMENT and bound == "iwae" and program == "tree":
        sites = [site for site in sites if site != "b"]  # refused: see below
    estimators = dict.fromkeys(sites, ESTIMATORS[name])
    assert greatest_deviation(scenario, estimators, bound, mode, nodes, frozen=frozen) < 4.5


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize(("bound", "mode"), [("evidence", ONE), ("iwae", TWO), ("iwae", LOOP)])
def test_normal_sites(bound, mode, coupled):
    """Measure-valued at both sites of a hierarchy of Normal ones."""
    one = dsvi.MeasureValued(coupled=coupled)
    program = SCENARIOS["hierarchy"]
    assert greatest_deviation(program, {"z": one, "y": one}, bound, mode, 24) < 4.5


# -- laws in their wrappers ----------------------------------------------------------------------


def gradients(guide: Callable[[], None], model: Callable[[], None], estimator) -> torch.Tensor:
    param("eta").grad = None
    objective = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": estimator})
    objective.loss_and_grads(model, guide)
    return param("eta").grad


@pytest.mark.parametrize("name", ["WithoutReplacement", "SumAndSample", "MeasureValued"])
@pytest.mark.parametrize("wrap", ["mask", "expand", "poutine"])
def test_exact_where_all_values_are_visited(name, wrap):
    """A mask silences the density, not the draw; an expanded law has one parameter for all."""
    param("eta", f64(0.3))
    cost = f64([0.4, -1.1])
    law = {
        "mask": lambda: dist.Bernoulli(logits=param("eta")).expand([2]).mask(False),
        "expand": lambda: dist.torch_distribution.ExpandedDistribution(
            dist.Bernoulli(logits=param("eta")), [2]
        ).mask(False),
        "poutine": lambda: dist.Bernoulli(logits=param("eta").expand(2)),
    }[wrap]

    def guide():
        with pyro.plate("data", 2), poutine.mask(mask=wrap != "poutine"):
            sample("z", law())

    def model():
        with pyro.plate("data", 2):
            with poutine.mask(mask=False):
                z = sample("z", dist.Bernoulli(f64(0.5)).expand([2]))
            pyro.factor("f", cost * z)

    q = f64(0.3).sigmoid()
    expected = -(q * (1 - q) * cost).sum()
    actual = gradients(guide, model, ESTIMATORS[name])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


IMPOSSIBLE = {**ESTIMATORS, "SumAndSample(2)": dsvi.SumAndSample(2)}
IMPOSSIBLE["WithoutReplacement(3)"] = dsvi.WithoutReplacement(3)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_value_of_no_probability(name):
    """It is asked about by some, costs infinitely much, and counts for nothing."""
    R = 4000
    param("eta", f64([0.3, -0.4]).expand(R, 2).clone())
    cost = f64([0.4, -1.1, torch.nan])

    def guide():
        logits = torch.cat([param("eta"), f64(-torch.inf).expand(R, 1)], -1)
        with pyro.plate("copies", R), poutine.mask(mask=False):
            sample("z", dist.Categorical(logits=logits))

    def model():
        with pyro.plate("copies", R):
            with poutine.mask(mask=False):
                z = sample("z", dist.Categorical(f64([0.3, 0.3, 0.4])))
            pyro.factor("f", cost[z])

    found = gradients(guide, model, IMPOSSIBLE[name])
    live = f64([0.3, -0.4]).requires_grad_()
    (expected,) = torch.autograd.grad(-(live.softmax(-1) * cost[:2]).sum(), live)
    error = found.std(0) / R**0.5 + 1e-12
    assert ((found.mean(0) - expected) / error).abs().max() < 4.5


# -- refusals ------------------------------------------------------------------------------------


def refused(law, estimator, message: str) -> None:
    def guide():
        sample("z", law(), infer={"estimator": estimator})

    before = torch.get_rng_state()
    with pytest.raises(IncompatibleSite, match=message):
        dsvi.Objective(dsvi.bounds.Evidence()).loss_and_grads(guide, guide)
    assert torch.equal(before, torch.get_rng_state())


LAWS = {
    "Poisson": lambda: dist.Poisson(f64(2.0)),
    "Gamma": lambda: dist.Gamma(f64(2.0), f64(1.0)),
    "Normal": lambda: dist.Normal(f64(0.0), f64(1.0)),
    "LogNormal": lambda: dist.LogNormal(f64(0.0), f64(1.0)),
    "MultivariateNormal": lambda: dist.MultivariateNormal(f64([0.0, 0.0]), torch.eye(2).double()),
    "Multinomial": lambda: dist.Multinomial(2, f64([0.5, 0.5])),
    "Geometric": lambda: dist.Geometric(f64(0.5)),
    "Delta": lambda: dist.Delta(f64(0.5)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "MeasureValued"])
def test_no_short_table_of_values(name, law):
    refused(LAWS[law], ESTIMATORS[name], f"'z': {name}: {law} has no short table of values")


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "MeasureValued"])
def test_binomials_of_several_counts(name):
    law = lambda: dist.Binomial(torch.tensor([2, 3]), f64([0.5, 0.5])).to_event(1)  # noqa: E731
    refused(law, ESTIMATORS[name], f"'z': {name}: Binomial of more than one total_count")


def test_too_many_swaps():
    law = lambda: dist.Categorical(torch.full((33,), 1 / 33))  # noqa: E731
    refused(law, dsvi.ARM(), "'z': ARM: on 33 values it asks for the credit at 528 others")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_single_value(name):
    message = "no pair of laws" if name == "MeasureValued" else "Categorical of a single value"
    refused(lambda: dist.Categorical(f64([1.0])), ESTIMATORS[name], f"'z': {name}: {message}")


@pytest.mark.parametrize("law", [name for name in LAWS if name not in ("Normal", "Poisson")])
def test_no_pair_of_laws(law):
    refused(LAWS[law], dsvi.MeasureValued(), f"'z': MeasureValued: no pair of laws .* for {law}")


@pytest.mark.parametrize("name", ["WithoutReplacement", "SumAndSample"])
def test_events_of_too_many_values(name):
    law = lambda: dist.Bernoulli(torch.full((11,), 0.5)).to_event(1)  # noqa: E731
    refused(law, ESTIMATORS[name], rf"'z': {name}: .* 11 coordinates .* 2\*\*11 .*max_support=1024")


@pytest.mark.parametrize("name", BY_ELEMENT)
@pytest.mark.parametrize(
    ("scenario", "bound", "site", "plate"),
    [
        ("grid", "evidence", None, None),
        ("rows", "iwae", None, None),
        ("shared", "evidence", None, None),
        ("shared", "iwae", "b", "data"),
        ("nested", "iwae", "b", "inner"),
    ],
)
def test_elements_with_a_common_cost(name, scenario, bound, site, plate):
    """Refused where the elements of a plate answer for one another, and only there."""
    program = SCENARIOS[scenario]
    for key, value in program.parameters().items():
        param(key, value.detach())
    estimators = dict.fromkeys(program.discrete, ESTIMATORS[name])
    objective = dsvi.Objective(BOUNDS[bound][0], num_particles=2, estimators=estimators)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlatesMergedWarning)
        if site is None:
            objective.loss_and_grads(program.model, program.guide)
            return
        with pytest.raises(IncompatibleSite, match=f"{site!r}: {name} .* plate {plate!r}"):
            objective.loss_and_grads(program.model, program.guide)


def test_elements_that_are_summed_outside_their_plate():
    def guide():
        with pyro.plate("data", 2):
            sample("z", dist.Bernoulli(logits=param("eta")))

    def model():
        with pyro.plate("data", 2):
            z = sample("z", dist.Bernoulli(f64(0.5)).expand([2]))
        pyro.factor("f", z.sum(-1) ** 2)

    param("eta", f64([0.1, 0.2]))
    for name in BY_ELEMENT:
        with pytest.raises(IncompatibleSite, match=f"'z': {name} .* plate 'data'"):
            gradients(guide, model, ESTIMATORS[name])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dsvi.MeasureValued(coupled=1), "MeasureValued: coupled must be True or False"),
        (lambda: dsvi.WithoutReplacement(1), "WithoutReplacement: k .* from 2 to 10, got 1"),
        (lambda: dsvi.WithoutReplacement(11), "WithoutReplacement: k .* from 2 to 10, got 11"),
        (lambda: dsvi.WithoutReplacement(2.0), "WithoutReplacement: k .* whole number"),
        (lambda: dsvi.WithoutReplacement(2, max_support=1), "max_support .* at least 2, got 1"),
        (lambda: dsvi.SumAndSample(0), "SumAndSample: k .* at least 1, got 0"),
        (lambda: dsvi.SumAndSample(True), "SumAndSample: k .* at least 1, got True"),
        (lambda: dsvi.SumAndSample(1, max_support=0), "max_support .* at least 2, got 0"),
    ],
)
def test_arguments_that_cannot_work(build, message):
    with pytest.raises(InvalidArgument, match=message):
        build()
