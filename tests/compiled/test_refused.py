"""What cannot be recorded is taken eagerly, with one warning that says why."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument, NotCompiledWarning
from tests.compiled.fitting import RECORDED, adam, fit
from tests.compiled.programs import Pair, bits, normal


def _program(scale, site=None):
    """A Normal latent; ``scale`` maps its draw to the scale of what is seen."""

    def build() -> Pair:
        def model():
            z = pyro.sample("z", site or dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale(z)), obs=torch.tensor(1.0))

        def guide():
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.7))

        return Pair(model, guide)

    return build


def _item(z):
    return abs(z.item()) + 1


def _branch(z):
    if z > 0:
        return torch.tensor(1.0)
    return torch.tensor(2.0)


def _array(z):
    return float(np.abs(z.detach().numpy())) + 1


def _shape(z):
    return 1.0 + len(torch.nonzero(z.expand(3) > 0))


def _python(z):
    return 1 + random.random()


def _numpy(z):
    return 1 + np.random.rand()  # noqa: NPY002


class _Counter:
    def __init__(self):
        self.count = 1

    def __call__(self, z):
        self.count += 1
        return 1 + 1 / self.count


class _Anneal:
    """A counter that moves no number for a long while."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z):
        self.calls += 1
        return 1.0 if self.calls < 40 else 2.0


class _Rebinds:
    def __init__(self):
        self.mean = torch.tensor(1.0)

    def __call__(self, z):
        self.mean = 0.9 * self.mean + 0.1 * z.detach().abs()
        return self.mean + 0.5


class _Remembers:
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, z):
        return 1 + self.generator.random()


REASONS = {
    "item": (lambda: _item, r"test_refused.py:\d+ \(`return abs\(z.item\(\)\) \+ 1`\).*site 'z'"),
    "branch": (lambda: _branch, r"read in Python.*`if z > 0:`.*site 'z'"),
    "array": (lambda: _array, "leaves torch by `numpy`"),
    "shape": (lambda: _shape, "shape depends on a tensor's content.*nonzero"),
    "python's random": (lambda: _python, "Python's random module"),
    "numpy's random": (lambda: _numpy, "numpy.random"),
    "counter": (_Counter, r"count \(\d+, then \d+\)"),
    "annealing": (_Anneal, r"calls \(\d+, then \d+\)"),
    "rebinding": (_Rebinds, "mean .*keep such a value in a tensor"),
    "generator": (_Remembers, "state of .*generator"),
}


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("whole", [False, True])
def test_reason(reason, whole):
    """Fifty steps, so that what changes late would show."""
    make, words = REASONS[reason]
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    eager = fit(_program(make()), dsvi.PathwiseELBO(), steps=50)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pytest.warns(NotCompiledWarning, match=words) as caught:
        compiled = fit(
            _program(make()), dsvi.PathwiseELBO(compiled=RECORDED), steps=50, whole=whole
        )
    assert len(caught) == 1
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-5)


def test_a_sampler_with_a_loop():
    def build() -> Pair:
        def model():
            angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
            pyro.sample("x", dist.Normal(angle, 1.0), obs=torch.tensor(0.5))

        def guide():
            pyro.sample("angle", dist.VonMises(pyro.param("loc", torch.tensor(0.2)), 2.0))

        return Pair(model, guide)

    eager = fit(build, dsvi.ScoreFunctionELBO())
    with pytest.warns(NotCompiledWarning, match="read in Python"):
        compiled = fit(build, dsvi.ScoreFunctionELBO(compiled=RECORDED), whole=True)
    assert compiled.losses == eager.losses


@pytest.mark.parametrize("whole", [False, True])
def test_a_handler_around_the_step(whole):
    pair = normal()
    loss = dsvi.PathwiseELBO(compiled=RECORDED)
    make = dsvi.CompiledSVI if whole else pyro.infer.SVI
    svi = make(pair.model, pair.guide, pyro.optim.SGD({"lr": 0.0}), loss)
    for _ in range(8):
        svi.step()
    pyro.set_rng_seed(3)
    once = svi.step()
    pyro.set_rng_seed(3)
    told = pytest.warns(NotCompiledWarning, match="handler stands around it .ScaleMessenger")
    with told, poutine.scale(scale=2.0):
        twice = svi.step()
    assert twice == pytest.approx(2 * once, rel=1e-5)


def test_nothing_is_recorded_without_gradients():
    pair = normal()
    loss = dsvi.PathwiseELBO(compiled=RECORDED)
    with torch.no_grad():
        for _ in range(5):
            loss.differentiable_loss(pair.model, pair.guide)
    assert not loss._compiled.replayer.entries


def test_another_optimizer_updates_eagerly_and_says_so():
    def rms():
        return pyro.optim.RMSprop({"lr": 0.01})

    eager = fit(normal, dsvi.PathwiseELBO(), optim=rms)
    with pytest.warns(NotCompiledWarning, match="update is not") as caught:
        compiled = fit(normal, dsvi.PathwiseELBO(compiled=RECORDED), optim=rms, whole=True)
    assert len(caught) == 1
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-4)


def test_many_sites_are_replayed_uncompiled():
    few = dsvi.Compilation(max_sites=2)
    with pytest.warns(NotCompiledWarning, match="5 sites.*backend='inductor'"):
        fit(normal, dsvi.PathwiseELBO(compiled=few), steps=5)


@pytest.mark.parametrize(
    "wrong", [{"backend": "jit"}, {"unroll": 0}, {"max_recordings": 0.5}, {"first_check": -1}]
)
def test_wrong_settings(wrong):
    (name,) = wrong
    with pytest.raises(InvalidArgument, match=name):
        dsvi.Compilation(**wrong)


def test_a_loss_that_is_not_ours():
    pair = bits()
    with pytest.raises(InvalidArgument, match="objective of pyro_dsvi, got Trace_ELBO"):
        dsvi.CompiledSVI(pair.model, pair.guide, adam(), pyro.infer.Trace_ELBO())
