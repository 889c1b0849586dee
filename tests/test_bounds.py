"""Bounds: closed forms against their definitions, limits, and log weights far apart."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyro_dsvi.bounds import CIWAE, IWAE, TVO, Bound, Evidence, Renyi
from pyro_dsvi.bounds.bound import exclusive_sum, mean_of_others
from pyro_dsvi.errors import InvalidArgument

BOUNDS = [Evidence(), IWAE(), Renyi(0.5), Renyi(-1.0), Renyi(2.0), Renyi(0.99), CIWAE(0.3), TVO()]
ADDITIVE = {Evidence: True, IWAE: False, Renyi: False, CIWAE: False, TVO: False}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


@pytest.fixture(params=BOUNDS, ids=repr)
def bound(request) -> Bound:
    return request.param


@pytest.fixture(params=[(1,), (2,), (5,), (4, 3), (3, 2, 2)], ids=str)
def log_w(request) -> Tensor:
    return 2 * torch.randn(request.param)


def test_slopes_are_the_derivatives(bound, log_w):
    torch.testing.assert_close(bound.slope(log_w), Bound.slope(bound, log_w), atol=1e-12, rtol=0)


def test_gains_are_one_less_curvature_over_slope(bound, log_w):
    torch.testing.assert_close(bound.gain(log_w), Bound.gain(bound, log_w), atol=1e-9, rtol=0)


def test_leaving_one_out_puts_the_mean_of_the_others_in_its_place(bound, log_w):
    if len(log_w) == 1:
        with pytest.raises(InvalidArgument, match=r"at least 2 particles.*num_particles >= 2"):
            bound.leave_one_out(log_w)
        return
    expected = torch.empty_like(log_w)
    for k in range(len(log_w)):
        others = torch.cat([log_w[:k], log_w[k + 1 :]])
        replaced = log_w.clone()
        replaced[k] = others.mean(0)
        expected[k] = bound.value(replaced)
    torch.testing.assert_close(bound.leave_one_out(log_w), expected, atol=1e-12, rtol=0)
    default = Bound.leave_one_out(bound, log_w)
    torch.testing.assert_close(default, expected, atol=1e-12, rtol=0)


def test_what_is_left_out_has_no_say(bound):
    log_w = torch.randn(4, 2)
    changed = log_w.clone()
    changed[1] += 10
    before, after = bound.leave_one_out(log_w), bound.leave_one_out(changed)
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0], after[0])


def test_no_gradient_leaves_by_the_side(bound, log_w):
    leaf = log_w.requires_grad_()
    assert bound.value(leaf).requires_grad
    assert not bound.slope(leaf).requires_grad
    assert not bound.gain(leaf).requires_grad


def test_derivatives_are_there_without_gradients(bound, log_w):
    with torch.no_grad():
        slope, gain = Bound.slope(bound, log_w), Bound.gain(bound, log_w)
    torch.testing.assert_close(slope, bound.slope(log_w), atol=1e-12, rtol=0)
    torch.testing.assert_close(gain, bound.gain(log_w), atol=1e-9, rtol=0)


def test_plates_are_bounded_one_by_one(bound):
    log_w = torch.randn(4, 3)
    for name in ("value", "slope", "gain", "leave_one_out"):
        whole = getattr(bound, name)(log_w)
        for i in range(3):
            torch.testing.assert_close(whole[..., i], getattr(bound, name)(log_w[:, i]))


def test_slopes_sum_to_one(bound, log_w):
    total = bound.slope(log_w).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("shift", [3.7, -1e4, 1e6])
def test_a_constant_passes_through(bound, shift):
    log_w = torch.randn(4, 2)
    for name in ("value", "leave_one_out"):
        f = getattr(bound, name)
        torch.testing.assert_close(f(log_w + shift) - shift, f(log_w), atol=1e-9, rtol=0)
    for name in ("slope", "gain"):
        f = getattr(bound, name)
        torch.testing.assert_close(f(log_w + shift), f(log_w), atol=1e-8, rtol=0)


def test_the_order_of_the_particles_does_not_matter(bound):
    log_w, order = torch.randn(5), torch.randperm(5)
    torch.testing.assert_close(bound.value(log_w[order]), bound.value(log_w))
    for name in ("slope", "gain", "leave_one_out"):
        f = getattr(bound, name)
        torch.testing.assert_close(f(log_w[order]), f(log_w)[order])


def test_one_particle_is_its_own_bound(bound):
    log_w = torch.randn(1, 3)
    torch.testing.assert_close(bound.value(log_w), log_w[0])
    torch.testing.assert_close(bound.slope(log_w), torch.ones(1, 3))


def test_equal_particles_are_the_bound(bound):
    log_w = torch.full((4,), -2.5)
    torch.testing.assert_close(bound.value(log_w), torch.tensor(-2.5))
    torch.testing.assert_close(bound.leave_one_out(log_w), log_w)


def test_values_by_their_formulas():
    w = torch.tensor([0.2, 1.5, 3.0])
    log_w = w.log()
    torch.testing.assert_close(Evidence().value(log_w), log_w.mean())
    torch.testing.assert_close(IWAE().value(log_w), w.mean().log())
    torch.testing.assert_close(Renyi(0.5).value(log_w), 2 * w.sqrt().mean().log())
    torch.testing.assert_close(Renyi(2.0).value(log_w), -(1 / w).mean().log())
    torch.testing.assert_close(Renyi(-1.0).value(log_w), w.square().mean().log() / 2)


def test_iwae_is_renyis_bound_of_order_zero(log_w):
    for name in ("value", "slope", "gain"):
        assert torch.equal(getattr(IWAE(), name)(log_w), getattr(Renyi(0.0), name)(log_w))


def test_doubly_reparameterised_weights():
    log_w = torch.randn(6)
    share = torch.softmax(log_w, 0)
    torch.testing.assert_close(IWAE().slope(log_w) * IWAE().gain(log_w), share**2)
    alpha = 0.3
    share = torch.softmax((1 - alpha) * log_w, 0)
    found = Renyi(alpha).slope(log_w) * Renyi(alpha).gain(log_w)
    torch.testing.assert_close(found, alpha * share + (1 - alpha) * share**2)
    assert torch.equal(Evidence().gain(log_w), torch.ones(6))


def test_renyis_bound_falls_with_its_order_and_tends_to_the_evidence_bound():
    log_w = torch.randn(7)
    orders = [-50.0, -1.0, 0.0, 0.5, 0.999, 1.001, 2.0, 50.0]
    values = [Renyi(alpha).value(log_w) for alpha in orders]
    assert all(high >= low for high, low in itertools.pairwise(values))
    for alpha in (1 - 1e-7, 1 + 1e-7):
        near = Renyi(alpha)
        for name in ("value", "slope", "gain", "leave_one_out"):
            found, limit = getattr(near, name)(log_w), getattr(Evidence(), name)(log_w)
            torch.testing.assert_close(found, limit, atol=1e-6, rtol=0)
    far = Renyi(-1e6).value(log_w), Renyi(1e6).value(log_w)
    torch.testing.assert_close(
        torch.stack(far), torch.stack([log_w.max(), log_w.min()]), atol=1e-4, rtol=0
    )


def test_bounds_say_whether_they_are_additive(bound):
    assert bound.additive is ADDITIVE[type(bound)]


def test_bounds_are_frozen_and_equal_by_value():
    assert Renyi(0.5) == Renyi(0.5) != Renyi(0.6)
    assert len({IWAE(), IWAE(), Evidence(), Evidence()}) == 2
    with pytest.raises(AttributeError):
        Renyi(0.5).alpha = 0.3
    assert repr(IWAE()) == "IWAE()"
    assert repr(Renyi(0.5)) == "Renyi(alpha=0.5)"


# -- far apart, and infinite ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_log_weights_ten_thousand_nats_apart(dtype, alpha):
    log_w = torch.tensor([-1e4, -2.0, -3.0, 0.5 - 1e4, -5e3], dtype=dtype)
    bound = Renyi(alpha)
    for name in ("value", "slope", "gain", "leave_one_out"):
        found = getattr(bound, name)(log_w)
        assert found.isfinite().all(), name
        exact = getattr(bound, name)(log_w.double())
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    # The two that count: log of the mean power of their weights.
    two = ((1 - alpha) * log_w[1:3].double()).logsumexp(0)
    expected = (two - math.log(5)) / (1 - alpha)
    assert bound.value(log_w).item() == pytest.approx(expected.item(), rel=1e-6)
    # Without the first of them the second stands alone.
    alone = ((1 - alpha) * log_w[2].double() - math.log(5)) / (1 - alpha)
    assert bound.leave_one_out(log_w)[1].item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_cancellation_beside_a_dominating_particle(dtype):
    # Subtracting the dominating weight from the total would leave nothing of the others.
    log_w = torch.tensor([40.0, 0.0, 1.0], dtype=dtype)
    others = IWAE().leave_one_out(log_w)[0].item()
    expected = math.log((1 + math.e + math.exp(0.5)) / 3)
    assert others == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bound", [IWAE(), Renyi(0.5)], ids=repr)
def test_an_impossible_particle_is_no_particle(bound):
    log_w = torch.tensor([-math.inf, 0.3, -1.2])
    assert bound.value(log_w).isfinite()
    assert bound.slope(log_w)[0] == 0
    assert bound.gain(log_w).isfinite().all()
    left_out = bound.leave_one_out(log_w)
    assert left_out[0].isfinite()  # what is impossible is replaced
    assert left_out[1:].isfinite().all()
    possible = torch.cat([log_w[1:], torch.full((1,), -1e5)])
    torch.testing.assert_close(bound.value(log_w), bound.value(possible))


def test_the_evidence_bound_of_an_impossible_particle_is_minus_infinity():
    log_w = torch.tensor([-math.inf, 0.3, -1.2])
    assert Evidence().value(log_w) == -math.inf
    left_out = Evidence().leave_one_out(log_w)
    assert left_out[0] == pytest.approx(-0.45)
    assert (left_out[1:] == -math.inf).all()


def test_value_has_a_finite_gradient_beside_an_impossible_particle():
    log_w = torch.tensor([-math.inf, 0.3, -1.2], requires_grad=True)
    IWAE().value(log_w).backward()
    torch.testing.assert_close(log_w.grad, IWAE().slope(log_w))


def test_exclusive_sums_by_their_definition():
    x = torch.randn(5, 2)
    for k in range(5):
        rest = torch.cat([x[:k], x[k + 1 :]])
        torch.testing.assert_close(exclusive_sum(x, logarithmic=False)[k], rest.sum(0))
        torch.testing.assert_close(exclusive_sum(x, logarithmic=True)[k], rest.logsumexp(0))
        torch.testing.assert_close(mean_of_others(x)[k], rest.mean(0))


# -- a bound of one's own ------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture(Bound):
    """A smooth mixture of the evidence bound and IWAE; only its value is written."""

    share: float = 0.3

    def value(self, log_w: Tensor) -> Tensor:
        return self.share * log_w.mean(0) + (1 - self.share) * IWAE().value(log_w)


def test_a_bound_of_ones_own_needs_its_value_only():
    log_w = torch.randn(4, 2)
    bound = Mixture()
    slope = 0.3 / 4 + 0.7 * IWAE().slope(log_w)
    torch.testing.assert_close(bound.slope(log_w), slope)
    share = IWAE().slope(log_w)
    curvature = 0.7 * share * (1 - share)
    torch.testing.assert_close(bound.gain(log_w), 1 - curvature / slope)
    for k in range(4):
        replaced = log_w.clone()
        replaced[k] = torch.cat([log_w[:k], log_w[k + 1 :]]).mean(0)
        torch.testing.assert_close(bound.leave_one_out(log_w)[k], bound.value(replaced))


def test_a_linear_bound_of_ones_own_has_a_gain_of_one():
    @dataclass(frozen=True)
    class Mean(Bound):
        def value(self, log_w: Tensor) -> Tensor:
            return log_w.mean(0)

    log_w = torch.randn(4, 2)
    assert torch.equal(Mean().gain(log_w), torch.ones(4, 2))
    assert not Mean.additive


def test_a_bound_must_have_a_value():
    with pytest.raises(TypeError, match="abstract"):
        Bound()


@pytest.mark.cuda
def test_bounds_stay_on_their_device(bound):
    log_w = torch.randn(4, 3, device="cuda")
    for name in ("value", "slope", "gain", "leave_one_out"):
        found = getattr(bound, name)(log_w)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), getattr(bound, name)(log_w.cpu()))
