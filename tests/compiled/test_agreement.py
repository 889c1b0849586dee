"""A replayed fit is the eager fit: same draws, same losses, same parameters."""

import pyro
import pytest
import torch

import pyro_dsvi as dsvi
from tests.compiled.fitting import RECORDED, assert_same, fit, replays, seeded
from tests.compiled.programs import GUIDES, PROGRAMS


def _neural():
    return dsvi.Neural(torch.nn.Linear(1, 1), inputs=torch.ones(1))


PRESETS = {
    "score function": lambda **o: dsvi.ScoreFunctionELBO(**o),
    "moving average": lambda **o: dsvi.ScoreFunctionELBO(dsvi.MovingAverage(), **o),
    "neural": lambda **o: dsvi.ScoreFunctionELBO(_neural(), **o),
    "leave-one-out": lambda **o: dsvi.ScoreFunctionELBO(dsvi.LeaveOneOut(), num_particles=3, **o),
    "optimal scale": lambda **o: dsvi.ScoreFunctionELBO(
        dsvi.OptimalScale(dsvi.MovingAverage()), num_particles=2, **o
    ),
    "mixed": lambda **o: dsvi.MixedELBO(num_particles=2, **o),
    "looped": lambda **o: dsvi.MixedELBO(num_particles=2, vectorize_particles=False, **o),
    "STL": lambda **o: dsvi.STL(**o),
    "IWAE": lambda **o: dsvi.IWAE(3, **o),
    "VIMCO": lambda **o: dsvi.VIMCO(3, **o),
    "DReG": lambda **o: dsvi.DReG(3, **o),
    "Renyi": lambda **o: dsvi.Renyi(0.5, 2, **o),
}


def _both(build, preset, whole=True, **options):
    pyro.set_rng_seed(0)
    eager = fit(build, preset(), **options)
    pyro.set_rng_seed(0)
    compiled = fit(build, preset(compiled=RECORDED), whole=whole, **options)
    return eager, compiled


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("program", ["bits", "mixed"])
@pytest.mark.filterwarnings("ignore::pyro_dsvi.errors.PlatesMergedWarning")
def test_presets(program, preset):
    eager, compiled = _both(PROGRAMS[program], PRESETS[preset])
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 12


@pytest.mark.parametrize("program", ["normal", "subsampled", "module", "amortised"])
def test_programs(program):
    eager, compiled = _both(PROGRAMS[program], lambda **o: dsvi.PathwiseELBO(**o))
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 12


@pytest.mark.parametrize("guide", GUIDES)
def test_automatic_guides(guide):
    eager, compiled = _both(GUIDES[guide], lambda **o: dsvi.MixedELBO(num_particles=2, **o))
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 12


@pytest.mark.parametrize("program", ["normal", "bits", "subsampled"])
def test_under_pyros_svi(program):
    """Loss and gradients by replay, the update by Pyro's own loop."""
    number = 1 if program == "subsampled" else 2
    loss = dsvi.MixedELBO(num_particles=number, compiled=RECORDED)
    eager = fit(PROGRAMS[program], dsvi.MixedELBO(num_particles=number))
    compiled = fit(PROGRAMS[program], loss)
    assert_same(eager, compiled)
    assert replays(loss) > 12


@pytest.mark.parametrize("program", ["module", "amortised"])
def test_under_a_torch_optimizer(program):
    def train(compiled):
        with pyro.settings.context(module_local_params=True):
            pair = seeded(PROGRAMS[program])
            loss = dsvi.MixedELBO(compiled=compiled)
            elbo = loss(pair.model, pair.guide)
            elbo(*pair.args)
            modules = [m for m in (pair.model, pair.guide) if isinstance(m, torch.nn.Module)]
            if not modules:
                modules = [pair.model.__self__]
            parameters = list(torch.nn.ModuleList(modules).parameters())
            optim = torch.optim.SGD(parameters, lr=1e-3)
            for _ in range(20):
                optim.zero_grad()
                (2 * elbo(*pair.args)).backward()
                optim.step()
            return [p.detach().clone() for p in parameters], loss

    (eager, _), (compiled, loss) = train(False), train(RECORDED)
    assert replays(loss) > 10
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_in_double_precision():
    torch.set_default_dtype(torch.float64)
    preset = lambda **o: dsvi.MixedELBO(num_particles=2, **o)  # noqa: E731
    eager, compiled = _both(PROGRAMS["mixed"], preset, steps=100)
    assert_same(eager, compiled, tolerance=1e-9)
    assert replays(compiled.svi) > 90


def test_closed_forms():
    preset = lambda **o: dsvi.MixedELBO(analytic_kl=True, **o)  # noqa: E731
    eager, compiled = _both(PROGRAMS["normal"], preset)
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 12


def test_gradients_are_added_to_those_that_are_there():
    pair = seeded(PROGRAMS["normal"])
    loss = dsvi.PathwiseELBO(compiled=RECORDED)
    for _ in range(6):
        loss.loss_and_grads(pair.model, pair.guide)
    leaf = pyro.param("loc").unconstrained()
    leaf.grad = None
    pyro.set_rng_seed(5)
    loss.loss_and_grads(pair.model, pair.guide)
    once = leaf.grad.clone()
    pyro.set_rng_seed(5)
    loss.loss_and_grads(pair.model, pair.guide)
    torch.testing.assert_close(leaf.grad, 2 * once)
    assert replays(loss) >= 4


def test_learning_of_the_baseline_is_replayed():
    """A running mean goes on in the replay, and is where ``state_dict`` looks for it."""
    states = []
    for compiled in (False, RECORDED):
        loss = dsvi.ScoreFunctionELBO(dsvi.MovingAverage(), compiled=compiled)
        fit(PROGRAMS["bits"], loss)
        states.append(loss.state_dict())
    for name, row in states[0].items():
        for site, value in row.items():
            torch.testing.assert_close(states[1][name][site], value, rtol=1e-4, atol=1e-5)
