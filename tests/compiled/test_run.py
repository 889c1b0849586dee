"""Several steps in one call are the same steps; the optimizer's state is where it always is."""

import copy

import pyro
import pytest
import torch

import pyro_dsvi as dsvi
from tests.compiled.fitting import assert_same, fit, replays, seeded
from tests.compiled.programs import bits, normal

UNROLLED = dsvi.Compilation(backend="recorded", unroll=3, first_check=17)


OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.02, "weight_decay": 0.1}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.02, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3}),
    "SGD with momentum": lambda: pyro.optim.SGD(
        {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    ),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.97, "clip_norm": 0.5}),
    "fused Adam": lambda: dsvi.optim.FusedAdam({"lr": 0.02, "weight_decay": 0.1}),
    "per parameter": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "loc" else 0.01}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer):
    make = OPTIMIZERS[optimizer]
    eager = fit(normal, dsvi.PathwiseELBO(), optim=make, steps=25)
    stepwise = fit(normal, dsvi.PathwiseELBO(compiled=UNROLLED), optim=make, whole=True, steps=25)
    assert_same(eager, stepwise)
    assert replays(stepwise.svi) > 15
    theirs, ours = eager.optimizer, stepwise.optimizer
    for name, state in theirs.items():
        assert ours[name]["param_groups"] == state["param_groups"]
        for key, value in state["state"].get(0, {}).items():
            torch.testing.assert_close(
                ours[name]["state"][0][key], value, rtol=1e-3, atol=1e-5, msg=key
            )

    pair = seeded(normal)
    svi = dsvi.CompiledSVI(pair.model, pair.guide, make(), dsvi.PathwiseELBO(compiled=UNROLLED))
    pyro.set_rng_seed(2)
    losses = torch.cat([svi.run(4), svi.run(0), svi.run(21)])
    assert losses.tolist() == pytest.approx(eager.losses, rel=2e-4)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(value.detach(), eager.parameters[name], rtol=2e-4, atol=2e-4)


def test_baselines_learn_within_a_run():
    losses = []
    for compiled in (False, True):
        pair = seeded(bits)
        loss = dsvi.ScoreFunctionELBO(dsvi.MovingAverage(), compiled=UNROLLED)
        svi = dsvi.CompiledSVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), loss)
        pyro.set_rng_seed(2)
        losses.append(svi.run(20) if compiled else torch.tensor([svi.step() for _ in range(20)]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)


def test_run_sees_that_the_optimizers_were_forgotten():
    losses = []
    for make in (pyro.infer.SVI, dsvi.CompiledSVI):
        pair = seeded(normal)
        loss = dsvi.PathwiseELBO(compiled=UNROLLED)
        svi = make(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), loss)
        pyro.set_rng_seed(2)
        taken = []
        for _ in range(2):
            whole = isinstance(svi, dsvi.CompiledSVI)
            taken += svi.run(12).tolist() if whole else [svi.step() for _ in range(12)]
            svi.optim.optim_objs.clear()
        losses.append(taken)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_checkpoint_goes_on(tmp_path):
    """Params and optimizer state saved after replays, loaded under Pyro's own SVI."""
    ours = fit(normal, dsvi.PathwiseELBO(compiled=UNROLLED), whole=True)
    pyro.get_param_store().save(tmp_path / "params")
    ours.svi.optim.save(tmp_path / "optim")
    pyro.set_rng_seed(7)
    more = [ours.svi.step() for _ in range(5)]

    pair = seeded(normal)
    pyro.get_param_store().load(tmp_path / "params")
    optim = pyro.optim.Adam({"lr": 0.02})
    optim.load(tmp_path / "optim")
    svi = pyro.infer.SVI(pair.model, pair.guide, optim, dsvi.PathwiseELBO())
    pyro.set_rng_seed(7)
    assert [svi.step() for _ in range(5)] == pytest.approx(more, rel=1e-4)


def test_an_objective_with_recordings_is_copied_without_them():
    pair = seeded(normal)
    loss = dsvi.PathwiseELBO(compiled=UNROLLED)
    for _ in range(6):
        loss.loss_and_grads(pair.model, pair.guide)
    other = copy.deepcopy(loss)
    assert other.compilation == loss.compilation
    pyro.set_rng_seed(3)
    one = loss.loss_and_grads(pair.model, pair.guide)
    pyro.set_rng_seed(3)
    assert other.loss_and_grads(pair.model, pair.guide) == pytest.approx(one, rel=1e-5)
