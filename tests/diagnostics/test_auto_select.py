"""The choice of an estimator: where one has no variance at all, no clock can speak against it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import auto_select
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

SCORE, LOO = dsvi.ScoreFunction(), dsvi.ScoreFunction(dsvi.LeaveOneOut())


def programs(infer=None):
    for name in ("a", "b"):
        pyro.param(name, f64(0.3))

    def sites(logits, infer=None):
        a = pyro.sample("a", dist.Bernoulli(logits=logits[0]), infer=infer)
        b = pyro.sample("b", dist.Bernoulli(logits=logits[1]))
        return a, b

    def model():
        a, b = sites((f64(0.0), f64(0.0)))
        pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=f64(1.0))

    return model, lambda: sites((pyro.param("a"), pyro.param("b")), infer)


def test_no_variance_wins(capsys):
    chosen = auto_select(*programs(), among=[SCORE, dsvi.Enumerate()], num_steps=32)
    assert chosen == {"a": dsvi.Enumerate(), "b": dsvi.Enumerate()}
    said = capsys.readouterr().out
    for word in ("a, b", "Enumerate()", "<- chosen", "<- kept", "variance x s", str(chosen)):
        assert word in said
    found = dsvi.Objective(dsvi.bounds.Evidence(), estimators=chosen)
    table = dsvi.diagnostics.compare_estimators(*programs(), [found])
    assert table["Objective"].total.variance.value == pytest.approx(0, abs=1e-20)


def test_what_is_printed_makes_it_again():
    chosen = auto_select(*programs(), num_particles=2, among=[LOO], num_steps=32)
    again = eval(repr(chosen), vars(dsvi))
    assert repr(again) == repr(chosen)
    assert type(again) is dict
    average = dsvi.ScoreFunction(dsvi.MovingAverage(decay=0.5))
    assert eval(repr(average), vars(dsvi)).baseline.decay == 0.5


@pytest.mark.parametrize("among", [None])
def test_all_of_the_package_are_tried(among, capsys):
    chosen = auto_select(*programs(), among=among, num_steps=32)
    said = capsys.readouterr().out
    for name in ("ScoreFunction", "DisARM", "REBAR", "MeasureValued", "SumAndSample"):
        assert name in said
    assert "Pathwise" not in said  # which a Bernoulli site objects to
    assert "LeaveOneOut" in said  # left out, with its reason
    assert "needs at least 2 particles" in said
    assert chosen == {"a": dsvi.Enumerate(), "b": dsvi.Enumerate()}


def test_a_site_that_asks_is_left(capsys):
    infer = {"estimator": dsvi.DisARM()}
    chosen = auto_select(*programs(infer), among=[dsvi.Enumerate()], num_steps=32)
    assert set(chosen) == {"b"}
    assert "a: left as the site itself asks" in capsys.readouterr().out


def test_an_estimator_that_fails_is_left_out(capsys):
    chosen = auto_select(
        *programs(), bound=dsvi.bounds.IWAE(), num_particles=2, among=[dsvi.Enumerate()],
        num_steps=32,
    )  # fmt: skip
    assert repr(chosen["a"]) == repr(LOO)
    assert "Enumerate() left out" in capsys.readouterr().out


def test_nothing_is_disturbed():
    model, guide = programs()
    leaf = pyro.param("a").unconstrained()
    leaf.grad = f64(7.0)
    given = dsvi.ScoreFunction(dsvi.MovingAverage())
    state = random_state()
    auto_select(model, guide, among=[given], num_steps=32)
    assert same_random_state(random_state(), state)
    assert leaf.grad == 7.0
    assert not given.baseline.state_dict()["average._extra_state"]
    assert pyro.param("a").item() == pytest.approx(0.3)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"among": [dsvi.StraightThrough()]}, "unbiased estimators"),
        ({"among": ["pathwise"]}, "unbiased estimators"),
        ({"num_steps": 3}, "at least 32"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidArgument, match=message):
        auto_select(*programs(), **options)
