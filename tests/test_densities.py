"""Short log densities are those of the classes, in value and in every gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyro_dsvi.estimators.densities import log_prob


def leaf(*shape, positive=False):
    x = torch.randn(*shape, dtype=torch.float64)
    return (x.exp() if positive else x).requires_grad_()


def laws():
    """Each law as a function of its parameters, with parameters and values to try."""
    normal = (leaf(3, 2), leaf(2, positive=True))
    yield "Normal", dist.Normal, normal, leaf(3, 2)
    yield "Normal, wider value", dist.Normal, (leaf(2), leaf(2, positive=True)), leaf(4, 3, 2)
    yield "Normal, narrower value", dist.Normal, normal, leaf(2)
    yield "Normal of events", lambda m, s: dist.Normal(m, s).to_event(1), normal, leaf(3, 2)
    twice = lambda m, s: dist.Normal(m, s).to_event(1).to_event(1)  # noqa: E731
    yield "Normal of nested events", twice, normal, leaf(4, 3, 2)
    yield "Bernoulli", lambda x: dist.Bernoulli(logits=x), (leaf(3, 2),), torch.ones(3, 2).double()
    bits = lambda x: dist.Bernoulli(logits=x).to_event(1)  # noqa: E731
    yield "Bernoulli of events", bits, (leaf(3, 2),), torch.zeros(3, 2).double()
    yield "Bernoulli, wider value", bits, (leaf(2),), torch.ones(3, 2).double()
    yield "Bernoulli, narrower value", bits, (leaf(4, 3, 2),), torch.ones(3, 2).double()
    clamped = lambda x: dist.Bernoulli(x.sigmoid())  # noqa: E731
    yield "Bernoulli of probabilities", clamped, (leaf(3),), torch.ones(3).double()
    density = lambda v, w: dist.Delta(v, log_density=w, event_dim=1)  # noqa: E731
    yield "Delta elsewhere", density, (leaf(3, 2), leaf(3)), torch.zeros(3, 2).double()


LAWS = {name: rest for name, *rest in laws()}


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_as_the_class_has_it(law, validate):
    make, parameters, value = LAWS[law]
    with pyro.validation_enabled(validate):
        ours, theirs = log_prob(make(*parameters), value), make(*parameters).log_prob(value)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    inputs = [x for x in (*parameters, value) if x.requires_grad]
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs, allow_unused=True),
        torch.autograd.grad((theirs * weight).sum(), inputs, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_differentiable_twice():
    with pyro.validation_enabled(False):
        inputs = (leaf(3), leaf(3, positive=True), leaf(3))
        assert gradcheck(lambda m, s, x: log_prob(dist.Normal(m, s), x), inputs)
        assert gradgradcheck(lambda m, s, x: log_prob(dist.Normal(m, s), x), inputs)


@pytest.mark.parametrize("expanded", [False, True])
def test_point_mass_at_its_own_draw(expanded):
    """What it weighs there is what its author said, with that number's gradient."""
    v, weight = leaf(3, 2), leaf(3)
    with pyro.validation_enabled(False):
        q = dist.Delta(v, log_density=weight, event_dim=1)
        q = q.expand([4, 3]) if expanded else q
        draw = q.rsample()
        ours, theirs = log_prob(q, draw), q.log_prob(draw)
    torch.testing.assert_close(ours, theirs)
    (a,) = torch.autograd.grad(ours.sum(), weight)
    (b,) = torch.autograd.grad(theirs.sum(), weight)
    torch.testing.assert_close(a, b)


def test_point_mass_at_another_part_of_the_same_memory():
    x = torch.tensor([1.0, 2.0])
    with pyro.validation_enabled(False):
        assert log_prob(dist.Delta(x[:1]), x[1:]).item() == -torch.inf
        assert log_prob(dist.Delta(x), x.flip(0)).tolist() == [-torch.inf, -torch.inf]
        assert log_prob(dist.Delta(x[:1]), x[:1].expand(1)).item() == 0


def test_a_subclass_is_asked_itself():
    class Odd(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + 7.0

    with pyro.validation_enabled(False):
        zero = torch.zeros(())
        difference = log_prob(Odd(0.0, 1.0), zero) - log_prob(dist.Normal(0.0, 1.0), zero)
    assert difference.item() == pytest.approx(7.0)


def test_validation_is_kept():
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="support"):
        log_prob(dist.Bernoulli(logits=torch.zeros(())), torch.tensor(0.5))
