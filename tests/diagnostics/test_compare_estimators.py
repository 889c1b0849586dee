"""The table of estimators: exact where draws can be visited, honest intervals where they cannot."""

import copy
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import Draws, Enumeration, Gradient, Seconds, Verdict
from pyro_dsvi.diagnostics import compare_estimators as compare_by
from pyro_dsvi.diagnostics.parameters_by_site import parameters_by_site
from pyro_dsvi.diagnostics.prepared import meet_parameters
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.tally import Tally, fitted_rate, interval
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64
from tests.test_variance import VARIANCES, in_a_plate, together

LEAVE_ONE_OUT = dsvi.LeaveOneOut


def toy(program, eta: float = 0.0):
    pyro.param("eta", f64(eta))
    return partial(program, f64(0.0), True), lambda: program(pyro.param("eta"), False)


def regression():
    x, y = f64([0.3, 1.2, -0.5]), f64([1.0, 0.2, 0.4])
    pyro.param("loc", f64(0.2))
    pyro.param("scale", f64(0.5), constraint=dist.constraints.positive)

    def model():
        w = pyro.sample("w", dist.Normal(f64(0.0), 1.0))
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)

    def guide():
        pyro.sample("w", dist.Normal(pyro.param("loc"), pyro.param("scale")))

    return model, guide


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "baseline", "expected"), VARIANCES)
def test_variance_by_visiting_every_draw(program, baseline, expected):
    objective = dsvi.ScoreFunctionELBO(baseline and baseline(), num_particles=2)
    found = compare_by(*toy(program), {"score": objective})["score"]
    assert found.exact
    assert found.steps == 64
    assert found.total.variance.value == pytest.approx(expected, rel=3e-5)
    assert found.total.variance.low == found.total.variance.high == found.total.variance.value
    assert found.total.at_equal_samples == pytest.approx(2 * expected, rel=3e-5)
    assert found.total.verdict is Verdict.UNBIASED
    assert found.total.rate == pytest.approx(-0.5, abs=1e-9)
    gradient = 0.25 * float((1 - 2 * f64([0.6, 0.51, 0.48])).sum())
    signal = abs(gradient) / math.sqrt(expected)
    assert found["eta"].signal_to_noise == pytest.approx(signal, rel=1e-4)


def test_a_sampled_variance_has_the_exact_one_in_its_interval():
    """The same objective as above, by chance: more draws than the budget to visit."""
    objective = dsvi.ScoreFunctionELBO(LEAVE_ONE_OUT(), num_particles=8)
    found = compare_by(*toy(together), {"eight": objective}, budget=8000)["eight"]
    assert not found.exact
    spread = found.total.variance
    error = math.log(spread.high / spread.low) / (2 * 1.96)  # of the logarithm
    assert abs(math.log(spread.value / variance_of_leave_one_out(8))) < 4 * error
    assert found.total.verdict is Verdict.NO_BIAS_SEEN
    assert found.total.rate == pytest.approx(-0.5, abs=0.15)
    assert found.total.errors[0][0] == 8
    signal = 0.25 * abs(float((1 - 2 * f64([0.6, 0.51, 0.48])).sum()))
    expected = signal / math.sqrt(variance_of_leave_one_out(8))
    assert found.total.signal_to_noise == pytest.approx(expected, rel=0.1)


def variance_of_leave_one_out(K: int) -> float:
    """Of (1/K) Σ_k s_k (f_k - mean of the other f): a U-statistic of order two.

    Its kernel, with s and f of one particle, is (s_j - s_k)(f_j - f_k)/2; the variance follows from
    those of the kernel and of its projection on one particle.
    """
    draws = torch.cartesian_prod(*[f64([0.0, 1.0])] * 3)
    s, f = (draws - 0.5).sum(-1), ((draws - f64([0.6, 0.51, 0.48])) ** 2).sum(-1)
    h = (s[:, None] - s) * (f[:, None] - f) / 2
    first = (h.mean(1) - h.mean()).square().mean()
    full = (h - h.mean()).square().mean()
    return float((4 * (K - 2) * first + 2 * full) / (K * (K - 1)))


def test_the_formula_of_the_test_above():
    assert variance_of_leave_one_out(2) == pytest.approx(0.0072750, rel=3e-5)


def test_tally_is_the_two_pass_formula():
    torch.manual_seed(0)
    g = [
        [torch.randn(3, dtype=torch.float64), torch.randn((), dtype=torch.float64)]
        for _ in "a" * 65
    ]
    a, b = (torch.stack(column) for column in zip(*g, strict=True))
    wanted = Gradient(
        {"a": a[0], "b": b[0]},
        {"a": torch.zeros(3), "b": f64(0.1)},
        {"a": torch.zeros(3), "b": f64(0.0)},
        "",
    )
    tally = Tally(["a", "b"], wanted)
    for each in g:
        tally.add(each)
    assert tally.spread(["a"]).value == pytest.approx(float(a.var(0).sum()), rel=1e-12)
    total = float(a.var(0).sum() + b.var())
    assert tally.spread().value == pytest.approx(total, rel=1e-12)
    errors = {samples: (error, blocks) for samples, error, blocks in tally.errors("b")}
    for size in (1, 2, 4, 8, 16):
        blocks = b[: 65 // size * size].reshape(-1, size).mean(1) - b[0]
        expected = math.sqrt(float(blocks.square().mean()) - 0.01)
        assert errors[size][0] == pytest.approx(expected, rel=1e-12)
        assert errors[size][1] == len(blocks)
    assert set(errors) == {1, 2, 4, 8, 16}  # four blocks at least


def test_the_interval_covers():
    """95 % of intervals hold the mean, of skewed terms too: within 4 standard errors of that."""
    terms = np.random.default_rng(0).chisquare(1, (2000, 400))
    spreads = [interval(row) for row in terms]
    covered = np.mean([s.low < 1 < s.high for s in spreads])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_a_bias_remains_however_many_samples():
    soft = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"b": dsvi.GumbelSoftmax(5.0)})
    found = compare_by(*toy(together, 1.0), {"soft": soft}, budget=1500)
    total = found["soft"].total
    assert total.verdict is Verdict.BIASED
    assert total.rate > -0.35
    assert total.errors[-1][1] > 0.8 * total.bias
    assert "biased" in str(found)


def test_variance_by_site_counts_a_sites_own_parameters():
    def program(p, r, cost):
        b = pyro.sample("b", dist.Bernoulli(logits=p))
        c = pyro.sample("c", dist.Bernoulli(logits=r + b))
        if cost:
            pyro.factor("f", b + 2 * c)

    pyro.param("p", f64(0.3)), pyro.param("r", f64([0.1]))
    found = compare_by(
        lambda: program(f64(0.0), f64([0.0]), True),
        lambda: program(pyro.param("p"), pyro.param("r"), False),
        [dsvi.ScoreFunctionELBO()],
    )["ScoreFunctionELBO"]
    by_site = found.variance_by_site
    assert by_site == {"b": found["p"].variance.value, "c": found["r"].variance.value}
    assert by_site["b"] > 0
    assert sum(by_site.values()) == pytest.approx(found.total.variance.value, rel=1e-12)


def test_what_comes_through_a_draw_upstream_is_not_a_sites_own():
    pyro.param("p", f64(0.3)), pyro.param("r", f64(0.1))

    def guide():
        a = pyro.sample("a", dist.Normal(pyro.param("p"), 1.0))
        pyro.sample("b", dist.Normal(a + pyro.param("r"), 1.0))

    programs = Programs(guide, guide)
    meet_parameters(programs)
    assert parameters_by_site(programs) == {"a": ("p",), "b": ("r",)}


# -- references ----------------------------------------------------------------------------------


def test_quadrature_where_normal_sites_allow_it():
    found = compare_by(*regression(), [dsvi.PathwiseELBO(), dsvi.STL()], budget=400)
    assert "enumeration of the 16" in found["STL"].certificate.reference
    assert found["STL"].total.verdict is Verdict.NO_BIAS_SEEN


@pytest.mark.parametrize("reference", ["path", dsvi.STL(), Enumeration(nodes=8)])
def test_a_named_reference(reference):
    objectives = {"path": dsvi.PathwiseELBO(), "iwae": dsvi.STL(num_particles=2)}
    found = compare_by(*regression(), objectives, budget=64, reference=reference)
    told = found["iwae"].certificate.reference
    assert {"path": "'path'", Enumeration: "8 joint draws"}.get(
        reference if isinstance(reference, str) else type(reference), "of STL"
    ) in told


def test_the_default_estimators_where_nothing_can_be_enumerated():
    pyro.param("rate", f64(2.0), constraint=dist.constraints.positive)

    def model():
        z = pyro.sample("z", dist.Gamma(f64(2.0), 1.0))
        pyro.sample("x", dist.Poisson(z), obs=f64(3.0))

    def guide():
        pyro.sample("z", dist.Gamma(f64(3.0), pyro.param("rate")))

    score = dsvi.ScoreFunctionELBO(LEAVE_ONE_OUT(), num_particles=4)
    found = compare_by(model, guide, {"score": score}, budget=256)
    assert "under its default estimators" in found["score"].certificate.reference
    assert found["score"].total.verdict is Verdict.NO_BIAS_SEEN


# -- the table -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    baseline = dsvi.ScoreFunctionELBO(LEAVE_ONE_OUT(), num_particles=2)
    disarm = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"b": dsvi.DisARM()})
    return compare_by(*toy(in_a_plate), {"loo": baseline, "disarm": disarm}, budget=Draws(200))


def test_it_prints(two):
    text = str(two)
    for word in ("nats²", "enumeration of the 8", "loo", "disarm", "variance x s", "memory"):
        assert word in text
    assert "<table>" in two._repr_html_()


def test_pandas(two):
    frame = two.to_pandas()
    assert frame.index.names == ["objective", "parameter"]
    assert list(frame.loc["loo"].index) == ["all", "eta"]
    numbers = frame[["variance", "seconds a step", "variance x seconds", "memory"]]
    assert np.isfinite(numbers.to_numpy()).all()
    assert (numbers.to_numpy() >= 0).all()
    assert frame.loc[("loo", "eta"), "memory"] > 0


def test_the_best(two):
    assert two.best_at_equal_samples.name == "disarm"
    assert two.best_at_equal_seconds.name in ("loo", "disarm")
    with pytest.raises(KeyError):
        two["other"]
    with pytest.raises(KeyError):
        two["loo"]["other"]


def test_a_budget_of_time():
    found = compare_by(*regression(), [dsvi.PathwiseELBO()], budget=Seconds(0.2))
    assert found["PathwiseELBO"].steps >= 32


def test_the_same_seed_gives_the_same_table():
    numbers = [
        compare_by(*regression(), [dsvi.PathwiseELBO()], budget=64, seed=3).table()[0]["variance"]
        for _ in range(2)
    ]
    assert numbers[0] == numbers[1]


def test_nothing_is_disturbed():
    model, guide = regression()
    baseline = dsvi.MovingAverage()
    objective = dsvi.ScoreFunctionELBO(baseline)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
    svi.step()
    leaf = pyro.param("loc").unconstrained()
    leaf.grad = f64(7.0)
    state = random_state()
    learnt = copy.deepcopy(objective.state_dict())
    before = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    compare_by(model, guide, [objective, dsvi.STL()], budget=40, reference=dsvi.PathwiseELBO())
    assert same_random_state(random_state(), state)
    assert leaf.grad == 7.0
    assert learnt
    assert str(objective.state_dict()) == str(learnt)
    assert {n: v.detach() for n, v in pyro.get_param_store().items()} == before


def test_rate_of_too_few_points():
    assert math.isnan(fitted_rate([(1, 1.0, 8)]))


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        ({}, {}, "no objective"),
        ("path", {}, "objectives by name"),
        ({"path": 3}, {}, "loss_and_grads"),
        ([dsvi.STL()], {"budget": 0}, "budget"),
        ([dsvi.STL()], {"budget": "much"}, "budget"),
        ([dsvi.STL()], {"reference": "path"}, "none of the objectives"),
        ([dsvi.STL()], {"reference": 3}, "expected a reference"),
        ([dsvi.STL()], {"level": 2.0}, "level"),
        ([pyro.infer.TraceTailAdaptive_ELBO()], {}, "which bound"),
    ],
)
def test_refusals(objectives, options, message):
    with pytest.raises(InvalidArgument, match=message):
        compare_by(*regression(), objectives, **options)
