"""What changes between steps is seen: by reference, by a guard, or by the recheck."""

import os
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import NotCompiledWarning
from tests.compiled.fitting import RECORDED, adam, replays
from tests.compiled.programs import Pair, normal

FACTOR = torch.tensor(1.0)


def _seen(scale):
    def build() -> Pair:
        def model():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale()), obs=torch.tensor(1.0))

        def guide():
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

        return Pair(model, guide)

    return build


def _follow(build, change, *, steps=12, args=None, recordings=None, optim=adam, after=6):
    """Losses of an eager and of a replayed fit with a change after some steps; and the latter."""
    losses = []
    for make in (pyro.infer.SVI, dsvi.CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        pair = build()
        loss = dsvi.PathwiseELBO(compiled=RECORDED)
        if make is pyro.infer.SVI:
            loss = dsvi.PathwiseELBO()
        svi = make(pair.model, pair.guide, optim(), loss)
        pyro.set_rng_seed(2)
        taken = []
        for step in range(steps):
            if step == after:
                change(pair, svi)
            taken.append(svi.step(*(args(step) if args else pair.args)))
        losses.append(taken)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][after] != losses[1][after - 1]
    if recordings is not None:
        assert svi._replayer.learning.made == recordings
    return svi


def test_content_of_a_closed_over_tensor():
    scale = torch.tensor(1.0)

    def change(pair, svi):
        scale.fill_(1.0 if scale == 3 else 3.0)

    def build():
        scale.fill_(1.0)
        return _seen(lambda: scale)()

    svi = _follow(build, change, recordings=1)
    assert replays(svi) > 5


def test_a_rebound_global():
    def change(pair, svi):
        global FACTOR
        FACTOR = torch.tensor(3.0)

    def build():
        global FACTOR
        FACTOR = torch.tensor(1.0)
        return _seen(lambda: FACTOR)()

    assert replays(_follow(build, change, recordings=2)) > 5


@pytest.mark.parametrize("make", [SimpleNamespace, dict], ids=["namespace", "dict"])
def test_a_number_in_a_closure(make):
    held = make(beta=1.0)
    attributes = held if isinstance(held, dict) else vars(held)

    def change(pair, svi):
        attributes["beta"] = 2.5

    def build():
        attributes["beta"] = 1.0
        return _seen(lambda: held["beta"] if make is dict else held.beta)()

    assert replays(_follow(build, change, recordings=2)) > 5


def test_what_no_guard_sees_is_found_by_the_recheck(monkeypatch):
    monkeypatch.setenv("SCALE", "1.0")
    pair = _seen(lambda: float(os.environ["SCALE"]))()
    loss = dsvi.PathwiseELBO(compiled=RECORDED)
    svi = dsvi.CompiledSVI(pair.model, pair.guide, adam(), loss)
    for _ in range(7):
        svi.step()
    monkeypatch.setenv("SCALE", "2.5")
    with pytest.warns(NotCompiledWarning, match=r"changes from step to step.*after \d+ steps"):
        _ = [svi.step() for _ in range(10)]
    assert svi._replayer.refused


def test_batches_of_changing_size():
    data = [torch.randn(n) for n in (4, 4, 4, 3)]

    def build() -> Pair:
        def model(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

        return Pair(model, guide)

    svi = _follow(
        build, lambda *_: None, steps=20, args=lambda step: (data[step % 4],), recordings=2
    )
    assert replays(svi) > 8


def test_an_argument_is_an_input():
    """The tensor passed in may be the very one that was closed over when it was recorded."""
    x = torch.tensor(1.0)

    def build() -> Pair:
        def model(y):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

        def guide(y):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

        return Pair(model, guide)

    other = torch.tensor(4.0)
    _follow(build, lambda *_: None, args=lambda step: (x if step < 6 else other,), recordings=1)


class _Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3),
            torch.nn.Linear(4, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x).squeeze(-1)


def _networked() -> Pair:
    net, x, y = _Net(), torch.randn(8, 3), torch.randn(8)

    def model(x, y):
        pyro.module("net", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(net(x) + z, 1.0), obs=y)

    def guide(x, y):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

    model.net = net
    return Pair(model, guide, (x, y))


def test_running_statistics_and_training_mode():
    nets = []

    def change(pair, svi):
        nets.append(pair.model.net)
        pair.model.net.eval()

    assert replays(_follow(_networked, change, recordings=2, after=8, steps=16)) > 5
    for one, other in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert nets[1].layers[1].num_batches_tracked == 8


@pytest.mark.filterwarnings("ignore:.*not registered in the param store")
def test_a_frozen_parameter():
    def change(pair, svi):
        pair.model.net.layers[0].weight.requires_grad_(False)

    _follow(_networked, change, recordings=2)


def test_loaded_weights():
    def change(pair, svi):
        net = pair.model.net
        net.load_state_dict({n: 0.5 * v for n, v in net.state_dict().items()})

    _follow(_networked, change, recordings=1)


def test_replaced_weights():
    def change(pair, svi):
        layer = pair.model.net.layers[3]
        layer.weight.data = 2 * layer.weight.data

    _follow(_networked, change, recordings=2)


def test_a_cleared_param_store():
    def change(pair, svi):
        pyro.clear_param_store()

    assert replays(_follow(normal, change, recordings=2)) > 5


def test_a_learning_rate_that_is_changed():
    def change(pair, svi):
        for optimizer in svi.optim.optim_objs.values():
            optimizer.param_groups[0]["lr"] = 0.3

    _follow(normal, change, recordings=1)


def test_a_setting_of_the_optimizer_that_is_changed():
    def change(pair, svi):
        for optimizer in svi.optim.optim_objs.values():
            optimizer.param_groups[0]["betas"] = (0.5, 0.9)

    _follow(normal, change, recordings=2)


def test_settings_that_are_put_in_the_place_of_others():
    def change(pair, svi):
        for optimizer in svi.optim.optim_objs.values():
            optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.3}

    _follow(normal, change, recordings=2)


def _forget(svi):
    for optimizer in svi.optim.optim_objs.values():
        optimizer.state.clear()


def _begin_averages_anew(svi):
    for optimizer in svi.optim.optim_objs.values():
        for state in optimizer.state.values():
            state["exp_avg"] = torch.full_like(state["exp_avg"], 3.0)


def _count_anew(svi):
    for optimizer in svi.optim.optim_objs.values():
        for state in optimizer.state.values():
            state["step"] = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("reset", "recordings"),
    [
        (lambda svi: svi.optim.optim_objs.clear(), 1),  # which forgets the first one
        (_forget, 2),
        (_begin_averages_anew, 2),
        (_count_anew, 2),
    ],
    ids=["optimizers", "state", "averages", "count"],
)
def test_an_optimizer_that_begins_anew(reset, recordings):
    _follow(normal, lambda pair, svi: reset(svi), recordings=recordings)


def test_a_scheduled_learning_rate():
    def scheduled():
        return pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.1}
        )

    _follow(normal, lambda pair, svi: svi.optim.step(), recordings=1, optim=scheduled)


def test_a_number_that_changes_in_every_step():
    held = {"beta": 1.0}
    pair = _seen(lambda: held["beta"])()
    loss = dsvi.PathwiseELBO(compiled=RECORDED)

    def follow():
        for step in range(12):
            held["beta"] = 1 + 0.1 * step
            loss.loss_and_grads(pair.model, pair.guide)

    with pytest.warns(NotCompiledWarning, match=r"\['beta'\] .*changes from step to step"):
        follow()


def test_only_so_many_recordings_are_kept():
    settings = dsvi.Compilation(backend="recorded", max_recordings=2)

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

    loss = dsvi.PathwiseELBO(compiled=settings)
    for size in (1, 2, 3):
        for _ in range(4):
            loss.loss_and_grads(model, guide, torch.ones(size))
    assert sum(map(len, loss._compiled.replayer.entries.values())) == 2
