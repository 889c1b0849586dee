"""A plate's minibatch is a uniformly random subset, whatever the plate's size."""

import itertools
import math
from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_dsvi as dsvi
from pyro_dsvi.passes import minibatch
from pyro_dsvi.passes.minibatch import draw_by_operations, draw_subset, settle

SMALL = [(1, 1), (4, 1), (5, 2), (5, 3), (6, 4), (5, 5), (7, 5), (6, 6)]


def every_sequence(size, count):
    """Every sequence of draws of Floyd's algorithm; they are equally likely."""
    return itertools.product(*(range(size - count + i + 1) for i in range(count)))


def floyd(draws, size):
    """Floyd's algorithm, one step after the other."""
    taken = set()
    for step, draw in enumerate(draws, size - len(draws)):
        taken.add(step if draw in taken else draw)
    return taken


@pytest.mark.parametrize(("size", "count"), SMALL)
def test_every_subset_is_equally_likely(size, count):
    subsets = Counter(
        tuple(sorted(settle(torch.tensor(draws), size).tolist()))
        for draws in every_sequence(size, count)
    )
    assert set(subsets) == set(itertools.combinations(range(size), count))
    assert set(subsets.values()) == {math.factorial(count)}


@pytest.mark.parametrize(("size", "count"), SMALL)
def test_all_steps_at_once_are_floyds(size, count):
    for draws in every_sequence(size, count):
        assert set(settle(torch.tensor(draws), size).tolist()) == floyd(draws, size)


@pytest.mark.parametrize("count", [2, 3, 8, 9, 33, 100])
def test_the_longest_chain_of_collisions_is_followed(count):
    """Each step draws what the one before it fell back on."""
    size = count + 10
    draws = [3, 3, *range(size - count + 1, size - 1)]
    assert set(settle(torch.tensor(draws), size).tolist()) == floyd(draws, size)
    assert floyd(draws, size) == {3, *range(size - count + 1, size)}


@pytest.mark.parametrize(("size", "count"), [(300, 256), (300, 257), (1000, 999), (10**6, 2000)])
def test_many_draws_are_settled_as_floyd_does(size, count):
    """Whether each is compared with each, or all are sorted."""
    draws = (
        torch.rand(count, dtype=torch.float64) * torch.arange(size - count + 1, size + 1)
    ).long()
    assert set(settle(draws, size).tolist()) == floyd(draws.tolist(), size)


@pytest.mark.parametrize(("size", "count"), [(70, 64), (300, 100), (10**4, 64), (10**6, 300)])
def test_the_operator_is_its_operations(size, count):
    for seed in range(5):
        torch.manual_seed(seed)
        drawn = torch.ops.dsvi.draw_subset.default(size, count)
        torch.manual_seed(seed)
        assert torch.equal(draw_by_operations(size, count), drawn)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (size, count)
        for size in (1, 2, 129, 1000, 12_345, 10**6, 2**40)
        for count in (1, 2, 7, 64, 500)
        if count <= size
    ],
)
def test_indices_are_distinct_and_in_range(size, count):
    for _ in range(5):
        drawn = draw_subset(size, count)
        assert drawn.shape == (count,)
        assert drawn.dtype == torch.int64
        assert len(drawn.unique()) == count
        assert 0 <= drawn.min() <= drawn.max() < size


@pytest.mark.parametrize("size", [2, 10, 1000])
@pytest.mark.parametrize("left_out", [0, 1, 3])
def test_nearly_all_and_all(size, left_out, monkeypatch):
    monkeypatch.setattr(minibatch, "_PERMUTED", 0)
    count = max(1, size - left_out)
    drawn = draw_subset(size, count)
    assert len(drawn.unique()) == count
    assert 0 <= drawn.min() <= drawn.max() < size


@pytest.mark.parametrize("permuted", [0, 128])
def test_subsets_are_drawn_evenly(permuted, monkeypatch):
    """Pearson's statistic over the 35 subsets: 34 degrees, so 72 has probability 2e-4."""
    monkeypatch.setattr(minibatch, "_PERMUTED", permuted)
    total = 3500
    found = Counter(tuple(sorted(draw_subset(7, 3).tolist())) for _ in range(total))
    expected = total / math.comb(7, 3)
    assert len(found) == math.comb(7, 3)
    assert sum((n - expected) ** 2 / expected for n in found.values()) < 72


@pytest.mark.parametrize("size", [50, 10**6])
def test_the_seed_decides(size):
    torch.manual_seed(1)
    first, second = draw_subset(size, 16), draw_subset(size, 16)
    torch.manual_seed(1)
    assert torch.equal(draw_subset(size, 16), first)
    assert torch.equal(draw_subset(size, 16), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", [50, 10**6])
def test_a_recorded_draw_is_made_anew(size):
    """And two equal draws in a graph stay two."""

    def both(x):
        return draw_subset(size, 16) + x, draw_subset(size, 16) + x

    zero = torch.zeros((), dtype=torch.int64)
    recorded = make_fx(both, tracing_mode="real")(zero)
    recorded.graph.eliminate_dead_code()
    torch.manual_seed(2)
    (a, b), (c, _) = recorded(zero), recorded(zero)
    torch.manual_seed(2)
    expected = [draw_subset(size, 16) for _ in range(3)]
    assert all(torch.equal(x, y) for x, y in zip((a, b, c), expected, strict=True))


# of torch's own, when its compiler is first imported
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_keeps_recorded_draws_apart():
    inductor = pytest.importorskip("torch._inductor")

    def both(x):
        return draw_subset(10**6, 16) + x, draw_subset(10**6, 16) + x

    zero = torch.zeros((), dtype=torch.int64)
    recorded = make_fx(both, tracing_mode="real")(zero)
    compiled = inductor.compile(recorded, [zero], options={"fallback_random": True})
    torch.manual_seed(2)
    drawn = [*compiled(zero), *compiled(zero)]
    torch.manual_seed(2)
    assert all(torch.equal(x, draw_subset(10**6, 16)) for x in drawn)


def test_the_operator_says_that_it_draws():
    """What merges, drops or precomputes nodes of a graph leaves such operators alone."""
    assert torch.Tag.nondeterministic_seeded in torch.ops.dsvi.draw_subset.default.tags


@pytest.mark.cuda
@pytest.mark.parametrize("size", [50, 10**6])
def test_on_a_gpu(size):
    torch.manual_seed(1)
    first = draw_subset(size, 16, "cuda")
    torch.manual_seed(1)
    assert torch.equal(draw_subset(size, 16, "cuda"), first)
    assert first.is_cuda
    assert len(first.unique()) == 16


# -- in programs -----------------------------------------------------------------------------------


def programs(size, count, seen, in_guide):
    """A model, and a guide, with a subsampled plate; the minibatches they saw are noted."""

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", size, subsample_size=count) as rows:
            seen.append(rows)
            pyro.sample("x", dist.Normal(z, 1.0), obs=rows.double() / size)

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        if in_guide:
            with pyro.plate("rows", size, subsample_size=count) as rows:
                seen.append(rows)

    return model, guide


@pytest.mark.parametrize("in_guide", [False, True])
@pytest.mark.parametrize("particles", [{}, {"num_particles": 3, "vectorize_particles": False}])
def test_programs_that_subsample_get_it_unchanged(in_guide, particles, monkeypatch):
    def permute(*_, **__):
        raise AssertionError("the whole plate was permuted")

    monkeypatch.setattr(torch, "randperm", permute)
    seen = []
    model, guide = programs(10**6, 8, seen, in_guide)
    objective = dsvi.PathwiseELBO(**particles)
    steps = []
    for _ in range(2):
        seen.clear()
        objective.differentiable_loss(model, guide)
        assert all(torch.equal(rows, seen[0]) for rows in seen)
        steps.append(seen[0])
    assert not torch.equal(*steps)


def test_particles_side_by_side_share_the_minibatch():
    seen = []
    model, guide = programs(10**6, 8, seen, True)
    objective = dsvi.PathwiseELBO(num_particles=3, vectorize_particles=True)
    objective.differentiable_loss(model, guide)
    seen.clear()
    objective.differentiable_loss(model, guide)
    assert seen
    assert all(torch.equal(rows, seen[0]) for rows in seen)


@pytest.mark.parametrize("count", [None, 20])
def test_the_whole_plate_stays_in_order(count):
    seen = []
    model, guide = programs(20, count, seen, False)
    dsvi.PathwiseELBO().differentiable_loss(model, guide)
    assert all(torch.equal(rows, torch.arange(20)) for rows in seen)


def test_given_indices_are_left_alone():
    given = torch.tensor([5, 1, 3])
    seen = []

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 10**6, subsample_size=3, subsample=given) as rows:
            seen.append(rows)
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    _, guide = programs(1, 1, [], False)
    dsvi.PathwiseELBO().differentiable_loss(model, guide)
    assert all(rows is given for rows in seen)


@pytest.mark.parametrize("inside", [False, True])
def test_a_handler_may_step_in(inside):
    given = torch.arange(8) + 100
    seen = []
    model, guide = programs(10**6, 8, seen, True)
    data = {"rows": given}
    if inside:
        model, guide = poutine.condition(model, data=data), poutine.condition(guide, data=data)
        dsvi.PathwiseELBO().differentiable_loss(model, guide)
    else:
        with poutine.condition(data=data):
            dsvi.PathwiseELBO().differentiable_loss(model, guide)
    assert seen
    assert all(torch.equal(rows, given) for rows in seen)


def test_the_gradient_keeps_its_expectation():
    """Over all 10 minibatches of 2 of 5, each as likely: the full gradient."""
    data = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4], dtype=torch.float64)
    loc = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def model():
        with pyro.plate("rows", 5, subsample_size=2) as rows:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=data[rows])

    total = torch.zeros((), dtype=torch.float64)
    for pair in itertools.combinations(range(5), 2):
        with poutine.condition(data={"rows": torch.tensor(pair)}):
            loss = dsvi.PathwiseELBO().differentiable_loss(model, lambda: None)
        total = total + torch.autograd.grad(loss, loc)[0] / 10
    torch.testing.assert_close(total, (loc.detach() - data).sum(), rtol=0, atol=1e-12)
