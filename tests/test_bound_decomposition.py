"""The bound's terms on linear-Gaussian models, where each is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import bound_decomposition
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.passes.record import running
from pyro_dsvi.passes.sample import Sample
from tests.scenarios import f64

DATA = f64([0.3, -1.2, 2.0])
NOISE = 0.8
PRECISION = 1 + 1 / NOISE**2
LOC, SCALE = f64([0.1, -0.3, 0.9]), 0.7  # of the guide


class Signs(Messenger):
    """Draws of noise ±1, two for each site: their mean is exact for whatever is quadratic in it."""

    def _pyro_sample(self, msg):
        if not isinstance(running(), Sample) or msg["is_observed"]:
            return
        q = msg["fn"]
        if isinstance(q, dist.Normal):
            sign = f64([1.0, -1.0]).reshape(2, *[1] * (len(q.batch_shape) - 1))
            msg["value"], msg["done"] = q.loc + q.scale * sign.expand(q.batch_shape), True


def model():
    with pyro.plate("data", len(DATA)):
        z = pyro.sample("z", dist.Normal(f64(0.5), f64(1.0)))
        pyro.sample("x", dist.Normal(z, f64(NOISE)), obs=DATA)
    pyro.sample("y", dist.Normal(f64(0.0), f64(1.0)), obs=f64(0.4))


def guide():
    with pyro.plate("data", len(DATA)):
        pyro.sample("z", dist.Normal(LOC, f64(SCALE)))


def best():
    with pyro.plate("data", len(DATA)):
        loc = (0.5 + DATA / NOISE**2) / PRECISION
        pyro.sample("z", dist.Normal(loc, f64(PRECISION**-0.5)))


def likelihood(loc, scale):
    """E log p(x | z) of each datum."""
    square = ((DATA - loc) ** 2 + scale**2) / NOISE**2
    return -0.5 * square - math.log(NOISE) - 0.5 * math.log(2 * math.pi)


def divergence(loc, scale):
    return 0.5 * (scale**2 + (loc - 0.5) ** 2 - 1) - math.log(scale)


Y = -0.5 * 0.4**2 - 0.5 * math.log(2 * math.pi)


def log_evidence():
    return float(dist.Normal(f64(0.5), f64(math.hypot(1.0, NOISE))).log_prob(DATA).sum()) + Y


def by_signs(*args, **options):
    with Signs():
        return bound_decomposition(*args, num_samples=2, vectorize_particles=True, **options)


def test_every_term_is_its_closed_form():
    parts = by_signs(model, guide)
    terms = {(term.site, term.part): term for term in parts.terms}
    assert terms.keys() == {("z", "-KL"), ("x", "log likelihood"), ("y", "log likelihood")}
    kl, x = terms["z", "-KL"], terms["x", "log likelihood"]
    assert (kl.closed, x.closed) == (True, False)
    assert (kl.plates, x.plates) == (("data",), ("data",))
    torch.testing.assert_close(kl.value, -divergence(LOC, SCALE), rtol=0, atol=1e-10)
    torch.testing.assert_close(x.value, likelihood(LOC, SCALE), rtol=0, atol=1e-10)
    assert kl.total.standard_error == 0
    assert float(kl.standard_error.max()) == 0
    assert terms["y", "log likelihood"].total.value == pytest.approx(Y, abs=1e-10)


def test_sums_by_part_site_and_plate():
    parts = by_signs(model, guide)
    wanted = float(likelihood(LOC, SCALE).sum())
    kl = float(divergence(LOC, SCALE).sum())
    assert parts.expected_log_likelihood.value == pytest.approx(wanted + Y, abs=1e-10)
    assert parts.divergence.value == pytest.approx(kl, abs=1e-10)
    assert parts.bound.value == pytest.approx(wanted + Y - kl, abs=1e-10)
    assert parts.by_site()["z"]["-KL"].value == pytest.approx(-kl, abs=1e-10)
    by_plate = parts.by_plate()
    assert by_plate["data",]["log likelihood"].value == pytest.approx(wanted, abs=1e-10)
    assert by_plate[()]["log likelihood"].value == pytest.approx(Y, abs=1e-10)


def test_the_gap_and_its_parts():
    """The best guide is exact here: all of the gap is the amortised one's."""
    parts = by_signs(model, guide, log_evidence=log_evidence(), best_guide=best)
    loc = (0.5 + DATA / NOISE**2) / PRECISION
    ratio = SCALE**2 * PRECISION
    gap = float((0.5 * (ratio + (LOC - loc) ** 2 * PRECISION - 1 - math.log(ratio))).sum())
    assert parts.gap.value == pytest.approx(gap, abs=1e-10)
    assert parts.approximation_gap.value == pytest.approx(0, abs=1e-10)
    assert parts.amortisation_gap.value == pytest.approx(gap, abs=1e-10)


def test_a_family_that_cannot_hold_the_posterior():
    """Two latents that the datum couples; the best independent guide lacks what is known."""
    x, noise = f64(1.1), 0.5

    def coupled():
        a = pyro.sample("a", dist.Normal(f64(0.0), f64(1.0)))
        b = pyro.sample("b", dist.Normal(f64(0.0), f64(1.0)))
        pyro.sample("x", dist.Normal(a + b, f64(noise)), obs=x)

    precision = torch.eye(2, dtype=torch.float64) + torch.ones(2, 2, dtype=torch.float64) / noise**2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (torch.ones(2, dtype=torch.float64) * x / noise**2)
    scale = precision.diagonal().rsqrt()

    def of(loc):
        def law():
            pyro.sample("a", dist.Normal(loc[0], scale[0]))
            pyro.sample("b", dist.Normal(loc[1], scale[1]))

        return law

    known = dist.Normal(f64(0.0), f64((2 + noise**2) ** 0.5)).log_prob(x)
    parts = bound_decomposition(
        coupled, of(mean + 0.2), num_samples=4000, log_evidence=float(known), best_guide=of(mean)
    )
    approximation = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    amortisation = 0.5 * 0.2**2 * float(precision.sum())
    for found, wanted in (
        (parts.approximation_gap, approximation),
        (parts.amortisation_gap, amortisation),
        (parts.gap, approximation + amortisation),
    ):
        assert abs(found.value - wanted) < 4 * found.standard_error
        assert found.standard_error < 0.2


def test_what_has_no_closed_form_is_sampled_part_by_part():
    def cauchy():
        z = pyro.sample("z", dist.Cauchy(f64(0.0), f64(1.0)))
        pyro.sample("x", dist.Normal(z, f64(1.0)), obs=f64(0.3))

    def normal():
        pyro.sample("z", dist.Normal(f64(0.2), f64(0.5)))

    parts = bound_decomposition(cauchy, normal, num_samples=2000)
    terms = {(term.site, term.part): term for term in parts.terms}
    assert terms.keys() == {("z", "log prior"), ("z", "entropy"), ("x", "log likelihood")}
    entropy = terms["z", "entropy"].total
    exact = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)
    assert abs(entropy.value - exact) < 4 * entropy.standard_error
    assert 0 < entropy.standard_error < 0.05
    objective = dsvi.MixedELBO(num_particles=2000)
    loss = objective.loss(cauchy, normal)
    assert abs(parts.bound.value + loss) < 6 * parts.bound.standard_error


def test_discrete_and_global_latents():
    def bits(observed=True, p=0.3):
        g = pyro.sample("g", dist.Bernoulli(f64(p)))
        with pyro.plate("data", 3):
            b = pyro.sample("b", dist.Bernoulli(f64(p) + 0.2 * g))
            if observed:
                pyro.sample("x", dist.Normal(b, f64(1.0)), obs=DATA)

    parts = bound_decomposition(bits, lambda: bits(False, 0.5), num_samples=4000)
    by_site = parts.by_site()
    kl = 0.5 * math.log(0.5 / 0.3) + 0.5 * math.log(0.5 / 0.7)
    assert by_site["g"]["-KL"].value == pytest.approx(-kl, abs=1e-10)
    inner = [_kl(0.5, 0.3), _kl(0.7, 0.5)]  # given g, whose draws are all that is left to chance
    found = by_site["b"]["-KL"]
    assert abs(found.value + 3 * sum(inner) / 2) < 4 * found.standard_error
    assert parts.by_plate()[()]["-KL"].value == pytest.approx(-kl, abs=1e-10)


def _kl(q, p):
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def test_an_automatic_guide_and_an_estimated_evidence():
    automatic = pyro.infer.autoguide.AutoNormal(model)
    found = dsvi.log_evidence(model, best, num_particles=100)
    parts = bound_decomposition(model, automatic, num_samples=50, chunk=20, log_evidence=found)
    assert parts.log_evidence.value == pytest.approx(log_evidence(), abs=1e-10)
    assert parts.gap.value > 0
    assert {term.part for term in parts.terms} == {"-KL", "log likelihood"}


@pytest.mark.parametrize("chunk", [None, 3, 1])
def test_chunks_are_the_whole(chunk):
    torch.manual_seed(0)
    whole = bound_decomposition(model, guide, num_samples=7, vectorize_particles=False)
    torch.manual_seed(0)
    found = bound_decomposition(model, guide, num_samples=7, chunk=chunk, vectorize_particles=False)
    for a, b in zip(found.terms, whole.terms, strict=True):
        torch.testing.assert_close(a.value, b.value, rtol=0, atol=1e-12)
        torch.testing.assert_close(a.standard_error, b.standard_error, rtol=0, atol=1e-12)
        torch.testing.assert_close(a.per_draw, b.per_draw, rtol=0, atol=1e-12)
    x = next(term for term in whole.terms if term.site == "x")
    assert x.total.standard_error == pytest.approx(float(x.per_draw.std()) / 7**0.5)


def test_a_draw_that_does_not_meet_a_site_counts_as_zero():
    def branching(observed=True):
        b = pyro.sample("b", dist.Bernoulli(f64(0.5)))
        if b.item():
            z = pyro.sample("z", dist.Normal(f64(0.3), f64(1.0)))
            if observed:
                pyro.sample("x", dist.Normal(z, f64(1.0)), obs=f64(0.7))

    parts = bound_decomposition(
        branching, lambda: branching(False), num_samples=40, vectorize_particles=False
    )
    (x,) = (term for term in parts.terms if term.site == "x")
    assert 0 < int((x.per_draw == 0).sum()) < 40
    assert float(x.value) == pytest.approx(float(x.per_draw.mean()), abs=1e-12)
    error = float(x.per_draw.std()) / 40**0.5
    assert float(x.standard_error) == pytest.approx(error, abs=1e-12)


def test_it_prints_and_goes_to_pandas():
    parts = by_signs(model, guide, log_evidence=log_evidence(), best_guide=best)
    text = str(parts)
    for word in ("-KL", "closed form", "sampled", "bound", "of amortisation", "log p(x)"):
        assert word in text
    frame = parts.to_pandas()
    assert list(frame["site"]) == [term.site for term in parts.terms]
    assert frame["value"].sum() == pytest.approx(parts.bound.value)
    assert by_signs(model, guide).gap is None
    assert "gap" not in str(by_signs(model, guide))


def test_a_number_that_cannot_work():
    with pytest.raises(InvalidArgument, match="num_samples must be a whole number"):
        bound_decomposition(model, guide, num_samples=1)
