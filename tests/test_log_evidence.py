"""Evidence by importance sampling: exact where weights are known, else by its standard error."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

DATA = f64([0.3, -1.2, 2.0, 0.7])
NOISE = 0.8


def model():
    with pyro.plate("data", len(DATA)):
        z = pyro.sample("z", dist.Normal(f64(0.5), f64(1.0)))
        pyro.sample("x", dist.Normal(z, f64(NOISE)), obs=DATA)


def truth():
    """Log evidence of each datum."""
    return dist.Normal(f64(0.5), f64(math.hypot(1.0, NOISE))).log_prob(DATA)


def posterior():
    precision = 1 + 1 / NOISE**2
    with pyro.plate("data", len(DATA)):
        loc = (0.5 + DATA / NOISE**2) / precision
        pyro.sample("z", dist.Normal(loc, f64(precision**-0.5)))


def rough():
    with pyro.plate("data", len(DATA)):
        pyro.sample("z", dist.Normal(DATA / 2, f64(0.9)))


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_the_exact_posterior_leaves_nothing_to_chance(side_by_side, chunk):
    found = dsvi.log_evidence(
        model, posterior, num_particles=20, chunk=chunk, vectorize_particles=side_by_side
    )
    (group,) = found.groups
    assert (group.sites, group.plates) == (("z",), ("data",))
    torch.testing.assert_close(group.value, truth(), rtol=0, atol=1e-10)
    torch.testing.assert_close(group.effective_sample_size, torch.full_like(DATA, 20.0))
    assert found.value == pytest.approx(float(truth().sum()), abs=1e-10)
    assert found.standard_error < 1e-6
    assert found.effective_sample_size == pytest.approx(20)


@pytest.mark.parametrize("chunk", [None, 1, 4, 10])
def test_sums_that_are_carried_along_are_the_sums(chunk):
    """In a loop the draws are the same whatever the chunk; all is as it is defined."""
    n = 10
    torch.manual_seed(3)
    found = dsvi.log_evidence(model, rough, num_particles=n, chunk=chunk, vectorize_particles=False)
    torch.manual_seed(3)
    zero, one = torch.zeros_like(DATA), torch.ones_like(DATA)
    z = torch.stack([DATA / 2 + 0.9 * torch.normal(zero, one) for _ in range(n)])
    log_w = dist.Normal(f64(0.5), f64(1.0)).log_prob(z) + dist.Normal(z, f64(NOISE)).log_prob(DATA)
    w = (log_w - dist.Normal(DATA / 2, f64(0.9)).log_prob(z)).exp()
    (group,) = found.groups
    error = w.std(0) / n**0.5 / w.mean(0)
    torch.testing.assert_close(group.value, w.mean(0).log(), rtol=0, atol=1e-10)
    torch.testing.assert_close(group.standard_error, error, rtol=0, atol=1e-10)
    size = w.sum(0) ** 2 / w.square().sum(0)
    torch.testing.assert_close(group.effective_sample_size, size, rtol=0, atol=1e-9)
    assert found.value == pytest.approx(float(w.mean(0).log().sum()), abs=1e-10)
    assert found.standard_error == pytest.approx(float(error.square().sum().sqrt()), abs=1e-10)
    assert found.effective_sample_size == pytest.approx(float(size.min()))


def test_the_standard_error_is_that_of_the_estimate():
    """Over 150 estimates: their spread, and how far they lie from the truth."""
    found = [dsvi.log_evidence(model, rough, num_particles=200) for _ in range(150)]
    values = f64([each.value for each in found])
    errors = f64([each.standard_error for each in found])
    assert float(values.std() / errors.mean()) == pytest.approx(1, abs=0.2)
    bias = float(values.mean() - truth().sum())
    assert abs(bias + float(errors.square().mean()) / 2) < 4 * float(values.std()) / 150**0.5


def test_bits_inside_and_outside_and_apart():
    """Several groups: a bit outside that ties the plate, one apart, and what no latent reaches."""

    def programs():
        g = pyro.sample("g", dist.Bernoulli(f64(0.3)))
        with pyro.plate("data", len(DATA)):
            pyro.sample("x", dist.Normal(2 * g, f64(1.0)), obs=DATA)
        with pyro.plate("others", 2):
            h = pyro.sample("h", dist.Bernoulli(f64(0.6)))
            pyro.sample("y", dist.Normal(h, f64(1.0)), obs=f64([0.2, 1.4]))
        with pyro.plate("free", 3):
            pyro.sample("u", dist.Normal(f64(0.0), f64(1.0)), obs=f64([0.1, 0.2, 0.3]))

    def log_normal(x, mean):
        return dist.Normal(f64(mean), f64(1.0)).log_prob(f64(x) if not torch.is_tensor(x) else x)

    of_g = torch.stack(
        [log_normal(DATA, 0.0).sum() + math.log(0.7), log_normal(DATA, 2.0).sum() + math.log(0.3)]
    )
    of_h = torch.stack(
        [log_normal([0.2, 1.4], 0.0) + math.log(0.4), log_normal([0.2, 1.4], 1.0) + math.log(0.6)]
    )
    free = log_normal([0.1, 0.2, 0.3], 0.0).sum()

    def guide():
        pyro.sample("g", dist.Bernoulli(logits=of_g[1] - of_g[0]))
        with pyro.plate("others", 2):
            pyro.sample("h", dist.Bernoulli(logits=of_h[1] - of_h[0]))

    found = dsvi.log_evidence(programs, guide, num_particles=6, chunk=4)
    groups = {group.sites: group for group in found.groups}
    assert groups[("g",)].plates == ()
    assert float(groups[("g",)].value) == pytest.approx(float(of_g.logsumexp(0)), abs=1e-10)
    assert groups[("h",)].plates == ("others",)
    torch.testing.assert_close(groups[("h",)].value, of_h.logsumexp(0), rtol=0, atol=1e-10)
    assert found.constant == pytest.approx(float(free), abs=1e-10)
    total = float(of_g.logsumexp(0) + of_h.logsumexp(0).sum() + free)
    assert found.value == pytest.approx(total, abs=1e-10)


def test_plates_are_in_their_order():
    def programs(value):
        with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", 3, dim=-2):
            z = pyro.sample("z", dist.Bernoulli(f64(0.5)))
            if value:
                pyro.sample("x", dist.Normal(z, f64(1.0)), obs=f64([[0.0, 1.0]] * 3))

    found = dsvi.log_evidence(lambda: programs(True), lambda: programs(False), num_particles=4000)
    (group,) = found.groups
    assert group.plates == ("rows", "columns")
    assert group.value.shape == (3, 2)
    each = [0.5 * (math.exp(-0.5 * x**2) + math.exp(-0.5 * (x - 1) ** 2)) for x in (0.0, 1.0)]
    expected = f64(each).log() - 0.5 * math.log(2 * math.pi)
    deviation = (group.value - expected) / group.standard_error
    assert float(deviation.abs().max()) < 4


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_particles_that_take_branches(chunk):
    def branching(observed=True):
        b = pyro.sample("b", dist.Bernoulli(f64(0.5)))
        if b.item():
            z = pyro.sample("z", dist.Bernoulli(f64(0.4)))
            if observed:
                pyro.sample("x", dist.Normal(z, f64(1.0)), obs=f64(0.7))

    torch.manual_seed(0)
    found = dsvi.log_evidence(
        branching,
        lambda: branching(False),
        num_particles=12,
        chunk=chunk,
        vectorize_particles=False,
    )
    torch.manual_seed(0)
    weights = []
    for _ in range(12):
        b = torch.bernoulli(f64(0.5))
        z = torch.bernoulli(f64(0.4)) if b else f64(0.0)
        weights.append(dist.Normal(z, f64(1.0)).log_prob(f64(0.7)).exp() if b else f64(1.0))
    assert found.value == pytest.approx(float(torch.stack(weights).mean().log()), abs=1e-10)


@pytest.mark.parametrize(
    "infer",
    [
        {"estimator": dsvi.GumbelSoftmax(0.5)},
        {"estimator": dsvi.Enumerate()},
        {"enumerate": "parallel"},
    ],
    ids=str,
)
def test_what_sites_say_of_their_gradients_plays_no_part(infer):
    def bits(observed=True, **options):
        with pyro.plate("data", len(DATA)):
            p = (
                f64(0.3)
                if observed
                else (f64(0.3) * like(1)) / (f64(0.7) * like(0) + f64(0.3) * like(1))
            )
            b = pyro.sample("b", dist.Bernoulli(p), **options)
            if observed:
                pyro.sample("x", dist.Normal(b, f64(1.0)), obs=DATA)

    def like(mean):
        return dist.Normal(f64(mean), f64(1.0)).log_prob(DATA).exp()

    found = dsvi.log_evidence(bits, lambda: bits(False, infer=infer), num_particles=5)
    expected = (f64(0.7) * like(0) + f64(0.3) * like(1)).log().sum()
    assert found.value == pytest.approx(float(expected), abs=1e-10)


def test_a_site_of_the_model_alone_is_summed_out():
    def summed():
        with pyro.plate("data", len(DATA)):
            pyro.sample("z", dist.Normal(f64(0.0), f64(1.0)))
            b = pyro.sample("b", dist.Bernoulli(f64(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(b, f64(1.0)), obs=DATA)

    def guide():
        with pyro.plate("data", len(DATA)):
            pyro.sample("z", dist.Normal(f64(0.0), f64(1.0)))

    found = dsvi.log_evidence(summed, guide, num_particles=4, chunk=3)
    likes = [dist.Normal(f64(m), f64(1.0)).log_prob(DATA).exp() for m in (0.0, 1.0)]
    assert found.value == pytest.approx(float((0.7 * likes[0] + 0.3 * likes[1]).log().sum()))


def test_no_weight_at_all():
    def impossible():
        b = pyro.sample("b", dist.Bernoulli(f64(0.5)))
        pyro.factor("never", torch.full_like(b, -math.inf))

    found = dsvi.log_evidence(
        impossible, lambda: pyro.sample("b", dist.Bernoulli(f64(0.5))), num_particles=4
    )
    assert found.value == -math.inf
    assert found.effective_sample_size == 0
    assert found.standard_error == math.inf


def test_it_leaves_no_gradient_and_prints():
    pyro.param("loc", f64(0.1))
    found = dsvi.log_evidence(model, rough, num_particles=50)
    assert not found.groups[0].value.requires_grad
    text = str(found)
    assert text.startswith("log p(x) = -")
    assert "z [data 4]" in text
    assert "of 50" in text


# -- what is refused -------------------------------------------------------------------------------


def test_a_minibatch_is_refused():
    def part(observed=True):
        with pyro.plate("data", 4, subsample_size=2) as i:
            z = pyro.sample("z", dist.Normal(f64(0.0), f64(1.0)))
            if observed:
                pyro.sample("x", dist.Normal(z, f64(1.0)), obs=DATA[i])

    with pytest.raises(InvalidArgument, match=r"plate 'data' subsamples.*pass the whole data"):
        dsvi.log_evidence(part, lambda: part(False))

    def one_by_one(observed=True):
        for i in pyro.plate("data", 4, subsample_size=2):
            z = pyro.sample(f"z{i}", dist.Normal(f64(0.0), f64(1.0)))
            if observed:
                pyro.sample(f"x{i}", dist.Normal(z, f64(1.0)), obs=DATA[i])

    with pytest.raises(InvalidArgument, match="plate 'data' subsamples"):
        dsvi.log_evidence(one_by_one, lambda: one_by_one(False), num_particles=2)


@pytest.mark.parametrize("scale", [0.5, torch.tensor(0.5)])
def test_a_scale_is_refused(scale):
    scaled = poutine.scale(model, scale=scale)
    with pytest.raises(InvalidArgument, match=r"site 'z' is scaled by .*0.5"):
        dsvi.log_evidence(scaled, poutine.scale(rough, scale=scale))


@pytest.mark.parametrize("num_particles", [1, 0, 2.5])
def test_numbers_that_cannot_work(num_particles):
    with pytest.raises(InvalidArgument, match="num_particles must be a whole number"):
        dsvi.log_evidence(model, rough, num_particles=num_particles)
