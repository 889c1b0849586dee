"""Every estimator's fit is replayed, and is the eager fit.

An estimator joins by a line in ``ESTIMATORS``.  Handlers around the step are not recorded, which is
said; around the guide they are, but for the one that seeds.
"""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import NotCompiledWarning
from tests.compiled.fitting import RECORDED, Fit, assert_same, fit, replays
from tests.compiled.programs import Pair

STEPS = 14


def bits() -> Pair:
    """Three Bernoulli draws upstream of a Normal one."""
    data = torch.linspace(-0.4, 1.3, 3)

    def model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            y = pyro.sample("y", dist.Normal(2 * z, 1.0))
            pyro.sample("x", dist.Normal(y, 0.7), obs=data)

    def guide():
        logits = pyro.param("logits", torch.tensor([0.3, -0.2, 0.5]))
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(logits=logits))
            pyro.sample("y", dist.Normal(pyro.param("loc", torch.tensor(0.2)) + z, 0.8))

    return Pair(model, guide)


def categories() -> Pair:
    """A one-hot draw among four, upstream of what is seen."""
    places = torch.tensor([0.0, 1.0, -0.7, 0.4])

    def model():
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(4) / 4))
        pyro.sample("x", dist.Normal(z @ places, 0.7), obs=torch.tensor(0.6))

    def guide():
        logits = pyro.param("logits", torch.tensor([0.3, -0.2, 0.5, 0.1]))
        pyro.sample("z", dist.OneHotCategorical(logits=logits))

    return Pair(model, guide)


def indices() -> Pair:
    """A draw among four, as an index."""
    places = torch.tensor([0.0, 1.0, -0.7, 0.4])

    def model():
        z = pyro.sample("z", dist.Categorical(torch.ones(4) / 4))
        pyro.sample("x", dist.Normal(places[z], 0.7), obs=torch.tensor(0.6))

    def guide():
        logits = pyro.param("logits", torch.tensor([0.3, -0.2, 0.5, 0.1]))
        pyro.sample("z", dist.Categorical(logits=logits))

    return Pair(model, guide)


def gaussian() -> Pair:
    """A Normal draw in a plate, seen through a curve."""
    data = torch.linspace(-0.4, 1.3, 3)

    def model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sin() + z, 0.7), obs=data)

    def guide():
        loc = pyro.param("loc", torch.tensor([0.3, -0.2, 0.5]))
        scale = pyro.param("scale", torch.tensor(0.6), constraint=dist.constraints.positive)
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(loc, scale))

    return Pair(model, guide)


class Square(torch.nn.Module):
    """A network that has learnt nothing yet."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value.square().sum(-1)


ESTIMATORS = {
    "pathwise": (gaussian, dsvi.Pathwise),
    "score function": (bits, dsvi.ScoreFunction),
    "score function, moving average": (bits, lambda: dsvi.ScoreFunction(dsvi.MovingAverage())),
    "score function, leave-one-out": (bits, lambda: dsvi.ScoreFunction(dsvi.LeaveOneOut())),
    "enumerate": (bits, dsvi.Enumerate),
    "marginalize": (indices, dsvi.Marginalize),
    "ARM": (bits, dsvi.ARM),
    "ARM, indices": (indices, dsvi.ARM),
    "DisARM": (bits, dsvi.DisARM),
    "DisARM, indices": (indices, dsvi.DisARM),
    "measure-valued": (bits, dsvi.MeasureValued),
    "measure-valued, Normal": (gaussian, dsvi.MeasureValued),
    "without replacement": (indices, lambda: dsvi.WithoutReplacement(2)),
    "sum and sample": (indices, lambda: dsvi.SumAndSample(1)),
    "Gumbel-softmax": (categories, lambda: dsvi.GumbelSoftmax(0.5)),
    "straight-through": (categories, dsvi.StraightThrough),
    "REBAR": (bits, dsvi.REBAR),
    "REBAR, one-hot": (categories, dsvi.REBAR),
    "RELAX": (categories, lambda: dsvi.RELAX(Square())),
    "Taylor": (gaussian, dsvi.Taylor),
    "Delta": (gaussian, dsvi.Delta),
}


@pytest.fixture(autouse=True)
def _in_double_precision():
    torch.set_default_dtype(torch.float64)


def both(build, estimator, **options) -> tuple[Fit, Fit, list[str]]:
    """An eager and a compiled fit from the same seed, and why the second is eager."""
    fits = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for compiled in (False, RECORDED):
            pyro.set_rng_seed(0)
            loss = dsvi.Objective(
                dsvi.bounds.Evidence(),
                num_particles=2,
                estimators={"z": estimator()},
                compiled=compiled,
                **options,
            )
            fits.append(fit(build, loss, steps=STEPS, whole=bool(compiled)))
    said = [str(w.message) for w in caught if issubclass(w.category, NotCompiledWarning)]
    return fits[0], fits[1], said


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator(name):
    build, estimator = ESTIMATORS[name]
    eager, compiled, said = both(build, estimator)
    assert_same(eager, compiled, 1e-9)
    assert not said
    assert replays(compiled.svi) > STEPS - 5


@pytest.mark.parametrize("name", ["DisARM", "REBAR", "Taylor"])
def test_particle_after_particle(name):
    build, estimator = ESTIMATORS[name]
    eager, compiled, said = both(build, estimator, vectorize_particles=False)
    assert_same(eager, compiled, 1e-9)
    assert not said


HANDLERS = {
    "antithetic": dsvi.handlers.antithetic,
    "quasi_monte_carlo": dsvi.handlers.quasi_monte_carlo,
    "common_random_numbers": lambda: dsvi.handlers.common_random_numbers(0),
}


def handled(handler, around_step: bool, compiled) -> tuple[list[float], list[str]]:
    """Losses of a fit under a handler, around its steps or around its guide; and what is said."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    pair, around = gaussian(), handler()
    guide = pair.guide if around_step else around(pair.guide)
    loss = dsvi.PathwiseELBO(num_particles=4, compiled=compiled)
    make = dsvi.CompiledSVI if compiled else pyro.infer.SVI
    svi = make(pair.model, guide, pyro.optim.Adam({"lr": 0.02}), loss)
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(STEPS):
            if around_step:
                with around:
                    losses.append(svi.step())
            else:
                losses.append(svi.step())
    return losses, [str(w.message) for w in caught if issubclass(w.category, NotCompiledWarning)]


@pytest.mark.parametrize("name", HANDLERS)
def test_under_a_handler_around_the_step(name):
    """It acts on programs, which a replay does not run."""
    losses, _ = handled(HANDLERS[name], True, False)
    ours, said = handled(HANDLERS[name], True, RECORDED)
    assert ours == pytest.approx(losses, rel=1e-9)
    (reason,) = said
    assert "a handler stands around" in reason


@pytest.mark.parametrize("name", HANDLERS)
def test_under_a_handler_around_the_guide(name):
    losses, _ = handled(HANDLERS[name], False, False)
    ours, said = handled(HANDLERS[name], False, RECORDED)
    assert ours == pytest.approx(losses, rel=1e-9)
    assert len(said) == (name == "common_random_numbers")  # which seeds
