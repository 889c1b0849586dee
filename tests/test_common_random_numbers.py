"""Common random numbers: a site's noise is its own, and the outer stream is left as it was."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

MODES = pytest.mark.parametrize("side_by_side", [True, False])


def model():
    z = pyro.sample("z", dist.Normal(f64(0.0), 1.0))
    with pyro.plate("data", 5, subsample_size=3) as i:
        b = pyro.sample("b", dist.Bernoulli(f64(0.4)))
        pyro.sample("x", dist.Normal(z + b, 1.0), obs=i.double())


def guide():
    z = pyro.sample("z", dist.Normal(pyro.param("m", f64(0.3)), 0.5))
    with pyro.plate("data", 5, subsample_size=3):
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", f64(0.1)) + z))


def objective(side_by_side: bool = True, **options) -> dsvi.Objective:
    return dsvi.MixedELBO(num_particles=3, vectorize_particles=side_by_side, **options)


@MODES
def test_every_step_has_the_same_noise(side_by_side):
    """Within one block and in another, under one objective and another, minibatch included."""
    elbo = objective(side_by_side)
    handler = dsvi.handlers.common_random_numbers(7)
    with handler:
        losses = [elbo.loss(model, guide), elbo.loss(model, guide)]
        losses.append(objective(side_by_side, frozen=True).loss_and_grads(model, guide))
    with handler:
        losses.append(elbo.loss(model, guide))
    with dsvi.handlers.common_random_numbers(7):
        losses.append(elbo.loss(model, guide))
    assert len(set(losses)) == 1
    with dsvi.handlers.common_random_numbers(8):
        assert elbo.loss(model, guide) != losses[0]


@MODES
def test_wrapped_guide(side_by_side):
    """Particles in a loop differ from one another; steps do not."""
    drawn: list[Tensor] = []

    def short():
        drawn.append(pyro.sample("z", dist.Normal(pyro.param("m", f64(0.3)), 0.5)))

    wrapped = dsvi.handlers.common_random_numbers(7)(short)
    elbo = objective(side_by_side)
    elbo.loss(short, short)
    steps = []
    for _ in range(2):
        drawn.clear()
        elbo.loss(lambda: pyro.sample("z", dist.Normal(f64(0.0), 1.0)), wrapped)
        steps.append(drawn[-1] if side_by_side else torch.stack(drawn[-3:]))
    assert torch.equal(*steps)
    assert len(steps[0].unique()) == 3


@MODES
def test_outer_stream_is_untouched(side_by_side):
    elbo = objective(side_by_side)
    elbo.loss(model, guide)
    before = torch.get_rng_state()
    with dsvi.handlers.common_random_numbers(0):
        elbo.loss(model, guide)
        torch.rand(3)
    dsvi.handlers.common_random_numbers(0)(guide)()
    assert torch.equal(torch.get_rng_state(), before)


def test_stream_is_put_back_after_an_error():
    def failing():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0).mask(torch.ones(2, dtype=torch.bool)).expand([3]))

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), dsvi.handlers.common_random_numbers(0):
        failing()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(torch.rand(1), torch.rand(1))


def test_a_site_more_shifts_no_other():
    """Noise is by name: not by order, and not by what the others draw."""

    def longer():
        pyro.sample("new", dist.Normal(torch.zeros(9), 1.0).to_event(1))
        guide()

    handler = dsvi.handlers.common_random_numbers(1)
    values = []
    for program in (guide, longer):
        with handler:
            nodes = poutine.trace(program).get_trace().nodes
        values.append([nodes[n]["value"] for n in ("z", "b", "data")])
    for a, b in zip(*values, strict=True):
        assert torch.equal(a, b)


def test_sites_are_independent():
    """Names and particles seed apart: no two sites share a draw, no correlation over 2000 seeds."""

    def pair():
        return torch.stack([pyro.sample(n, dist.Normal(f64(0.0), 1.0)) for n in ("a", "b")])

    draws = torch.stack([dsvi.handlers.common_random_numbers(s)(pair)() for s in range(2000)])
    assert abs(float(torch.corrcoef(draws.T)[0, 1])) < 4 / 2000**0.5
    assert abs(float(draws.mean())) < 4 / 4000**0.5


def test_a_site_that_comes_again_counts_on():
    """Without an objective: each entrance starts anew, and within it draws differ."""
    handler = dsvi.handlers.common_random_numbers(0)

    def draw():
        return float(pyro.sample("z", dist.Normal(0.0, 1.0)))

    with handler:
        first = [draw(), draw()]
    with handler:
        assert [draw(), draw()] == first
    assert first[0] != first[1]


def test_noise_outside_sites_is_common_too():
    handler = dsvi.handlers.common_random_numbers(0)
    with handler:
        first = torch.rand(3)
    with handler:
        assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("other", ["antithetic", "quasi_monte_carlo"])
@MODES
def test_with_coupled_particles(other, inside, side_by_side):
    """In any order the noise is both: common from step to step, and coupled within one."""
    drawn: list[Tensor] = []

    def short():
        drawn.append(pyro.sample("z", dist.Normal(f64(0.0), 1.0)).detach())

    def prior():
        pyro.sample("z", dist.Normal(f64(0.0), 1.0))

    elbo = dsvi.PathwiseELBO(num_particles=4, vectorize_particles=side_by_side)
    both = [dsvi.handlers.common_random_numbers(3), getattr(dsvi.handlers, other)()]
    steps = []
    for _ in range(3):
        with both[not inside], both[inside]:
            elbo.loss(prior, short)
        steps.append(drawn[-1] if side_by_side else torch.stack(drawn[-4:]))
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[1], steps[2])
    z = steps[0]
    if other == "antithetic":
        assert torch.equal(z[::2], -z[1::2])
    else:
        assert len((dist.Normal(f64(0.0), 1.0).cdf(z) * 4).floor().unique()) == 4


def test_difference_of_two_parameters():
    """What it is for: a slope by a finite difference, to the digits that the step leaves."""
    elbo = dsvi.PathwiseELBO(num_particles=2)
    m = pyro.param("m", f64(0.3))

    def short():
        pyro.sample("z", dist.Normal(pyro.param("m"), 0.5))

    def target():
        pyro.sample("z", dist.Normal(f64(0.0), 1.0))

    losses = []
    for shift in (-1e-5, 1e-5):
        with torch.no_grad():
            m += shift
        with dsvi.handlers.common_random_numbers(2):
            losses.append(elbo.loss(target, short))
        with torch.no_grad():
            m -= shift
    with dsvi.handlers.common_random_numbers(2):
        elbo.loss_and_grads(target, short)
    assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(float(m.grad), abs=1e-9)


@pytest.mark.parametrize("seed", [0.5, None, True, "0"])
def test_seed_must_be_a_whole_number(seed):
    with pytest.raises(InvalidArgument, match="seed must be a whole number"):
        dsvi.handlers.common_random_numbers(seed)


@pytest.mark.cuda
def test_outer_stream_of_a_gpu_is_untouched():
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state()
    q = dist.Normal(torch.zeros(3, device="cuda"), 1.0)
    draws = []
    for _ in range(2):
        with dsvi.handlers.common_random_numbers(0):
            draws.append(pyro.sample("z", q))
    assert torch.equal(*draws)
    assert torch.equal(torch.cuda.get_rng_state(), before)
