r"""The two stochasticities against closed forms, on a linear-Gaussian model.

:math:`w \sim N(0, 1)`, :math:`y_i \sim N(w x_i, 1)`, :math:`q(w) = N(m, s^2)` with
:math:`s = e^\rho`.  By the path :math:`w = m + s \varepsilon`, one datum's share of the gradient is

.. math:: L_i^m = a_i - b_i \varepsilon, \qquad L_i^\rho = s (a_i \varepsilon - b_i \varepsilon^2),
    \qquad a_i = x_i (y_i - m x_i), \quad b_i = s x_i^2

and every moment of it follows from E ε² = 1, Var ε² = 2, Cov(ε, ε²) = 0.
"""

import copy
import math
from itertools import combinations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.diagnostics import Split, variance_decomposition
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument
from tests.scenarios import f64

X, Y = np.array([0.5, -1.0, 1.5, 2.0]), np.array([0.2, -0.7, 2.5, 1.0])
MEAN, RHO = 0.3, -0.5
SCALE = math.exp(RHO)
A, B = X * (Y - MEAN * X), SCALE * X**2
N = len(X)


def programs(minibatch: int | None):
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    pyro.param("m", f64(MEAN))
    pyro.param("rho", f64(RHO))

    def model():
        w = pyro.sample("w", dist.Normal(f64(0.0), 1.0))
        with pyro.plate("data", N, subsample_size=minibatch) as rows:
            pyro.sample("y", dist.Normal(w * x[rows], 1.0), obs=y[rows])

    def guide():
        pyro.sample("w", dist.Normal(pyro.param("m"), pyro.param("rho").exp()))

    return model, guide


def of_noise(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Covariance matrix of one ε + two ε², for all pairs."""
    return np.outer(one, one) + 2 * np.outer(two, two)


def across_data(parameter: str) -> tuple[Split, Split]:
    """Var L_m and Cov(L_i, L_j)."""
    one, two, mean = {
        "m": (-B, 0 * B, A),
        "rho": (SCALE * A, -SCALE * B, -SCALE * B),
    }[parameter]
    matrix = of_noise(one, two)
    off = (matrix.sum() - np.trace(matrix)) / (N * (N - 1))
    spread = mean.var()
    return Split(np.trace(matrix) / N, spread), Split(off, -spread / (N - 1))


def whole(parameter: str, M: int) -> Split:
    """Variance of the estimate, minibatch by minibatch."""
    latent, mean = [], []
    for rows in map(list, combinations(range(N), M)):
        a, b = N / M * A[rows].sum(), N / M * B[rows].sum()
        if parameter == "m":  # -m - sε + a - bε
            latent.append((SCALE + b) ** 2)
            mean.append(a - MEAN)
        else:  # sε (a - bε - m - sε) + 1
            latent.append(SCALE**2 * ((a - MEAN) ** 2 + 2 * (b + SCALE) ** 2))
            mean.append(1 - SCALE * (b + SCALE))
    return Split(float(np.mean(latent)), float(np.var(mean)))


def assert_split(actual: Split, expected: Split, tolerance: float = 1e-10) -> None:
    assert actual.latent == pytest.approx(expected.latent, rel=tolerance, abs=tolerance)
    assert actual.minibatch == pytest.approx(expected.minibatch, rel=tolerance, abs=tolerance)


# -- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("minibatch", [1, 2, 3, None])
def test_closed_forms(minibatch):
    """All minibatches, and quadrature that is exact for polynomials: equal to rounding."""
    found = variance_decomposition(*programs(minibatch), dsvi.PathwiseELBO())
    M = minibatch or N
    assert found.exact
    assert found.minibatches == (math.comb(N, M) if minibatch else 1)
    for name in ("m", "rho"):
        expected = whole(name, M)
        assert_split(found[name].variance, expected)
        assert found[name].standard_error == Split(0.0, 0.0)
        plate = found[name].plates["data"]
        variance, covariance = across_data(name)
        assert (plate.size, plate.minibatch) == (N, M)
        assert_split(plate.variance, variance)
        assert_split(plate.covariance, covariance if M > 1 else Split(0.0, 0.0))
        for kind in ("latent", "minibatch"):
            shares = sum(getattr(s, kind) for s in found[name].terms.values())
            assert shares == pytest.approx(getattr(expected, kind), rel=1e-10, abs=1e-10)
    both = [whole(name, M) for name in ("m", "rho")]
    total = Split(sum(s.latent for s in both), sum(s.minibatch for s in both))
    assert_split(found.total.variance, total)
    assert found.variance_by_site == {"w": pytest.approx(total.total, rel=1e-10)}


def test_the_lectures_identity():
    """Var (N/M) Σ L_m = N²/M Var + N² (M-1)/M Cov, the left side from its own closed form."""
    found = variance_decomposition(*programs(2), dsvi.PathwiseELBO())["m"].plates["data"]
    left = Split(
        np.mean([(N / 2 * B[list(rows)].sum()) ** 2 for rows in combinations(range(N), 2)]),
        np.var([N / 2 * A[list(rows)].sum() for rows in combinations(range(N), 2)]),
    )
    independent, common = found.independent, found.common
    right = Split(independent.latent + common.latent, independent.minibatch + common.minibatch)
    assert_split(right, left)


def test_shares_of_terms():
    """Cov(g_c, g) of the prior and of the likelihood, and of the entropy with the prior."""
    terms = variance_decomposition(*programs(None), dsvi.PathwiseELBO())["m"].terms
    b = B.sum()
    assert_split(terms["w"], Split(SCALE * (SCALE + b), 0.0))
    assert_split(terms["y"], Split(b * (SCALE + b), 0.0))
    assert set(terms) == {"w", "y"}


def test_the_bound_itself():
    r"""The value is a quadratic in ε: -w²/2 + Σ(N/M)(...) + ε²/2, whose moments are known."""
    found = variance_decomposition(*programs(2), dsvi.PathwiseELBO()).value.variance
    latent, mean = [], []
    for rows in map(list, combinations(range(N), 2)):
        x, y = X[rows], Y[rows]
        square = -0.5 - N / 2 * (x**2).sum() / 2  # of w²
        linear = N / 2 * (x * y).sum()
        one = 2 * square * MEAN * SCALE + linear * SCALE
        two = square * SCALE**2 + 0.5
        latent.append(one**2 + 2 * two**2)
        mean.append(square * MEAN**2 + linear * MEAN + two - N / 2 * (y**2).sum() / 2)
    assert_split(found, Split(np.mean(latent), np.var(mean)))


def test_predictions_come_true():
    """What twice the particles, or the minibatch, are said to leave is what they leave."""
    one = variance_decomposition(*programs(1), dsvi.PathwiseELBO())
    two = variance_decomposition(*programs(2), dsvi.PathwiseELBO())
    all_four = variance_decomposition(*programs(None), dsvi.PathwiseELBO())
    name, after = two.with_twice_the_minibatch()
    assert name == "data"
    assert after == pytest.approx(all_four.total.variance.total, rel=1e-10)
    # From one element the covariance of the draws cannot be seen, so it is left out.
    lost = sum(N**2 / 2 * across_data(p)[1].latent for p in ("m", "rho"))
    found = one.with_twice_the_minibatch()[1]
    assert found + lost == pytest.approx(two.total.variance.total, rel=1e-10)
    more = dsvi.PathwiseELBO(num_particles=2, vectorize_particles=True)
    particles = variance_decomposition(*programs(None), more, num_draws=256)
    assert particles.exact
    expected = particles.total.variance.total
    assert all_four.with_twice_the_particles() == pytest.approx(expected, rel=1e-10)


def test_local_draws_leave_no_latent_covariance():
    """Where every datum has a draw of its own, the O(1) term has no latent part."""
    logits = pyro.param("logits", f64([0.3, -0.4, 1.0]))
    x = f64([0.1, 0.9, 0.7])

    def model():
        with pyro.plate("data", 3, subsample_size=2) as i:
            z = pyro.sample("z", dist.Bernoulli(f64(0.5)))
            pyro.sample("x", dist.Normal(pyro.param("slope", f64(2.0)) * z, 1.0), obs=x[i])

    def guide():
        with pyro.plate("data", 3, subsample_size=2) as i:
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("logits")[i]))

    found = variance_decomposition(model, guide, dsvi.ScoreFunctionELBO())
    assert found.exact
    q = logits.detach().sigmoid()
    # ∂/∂slope (x - slope z)² / -2 = z (x - slope)
    each = (q * (1 - q) * (x - 2) ** 2).numpy()
    mean = (q * (x - 2)).numpy()
    plate = found["slope"].plates["data"]
    assert_split(plate.variance, Split(each.mean(), mean.var()))
    assert_split(plate.covariance, Split(0.0, -mean.var() / 2))
    assert found["logits"].plates["data"].covariance.latent == pytest.approx(0, abs=1e-12)
    total = found["slope"].variance
    assert_split(total, Split(9 / 2 * each.mean(), 9 * mean.var() / 4))
    assert found.variance_by_site["z"] == pytest.approx(found["logits"].variance.total)


# -- by sampling ---------------------------------------------------------------------------------


def test_sampled_parts_agree_with_the_exact_ones():
    options = {"num_minibatches": 4, "num_draws": 4, "num_elements": 1}
    runs = [
        variance_decomposition(*programs(2), dsvi.PathwiseELBO(), seed=seed, **options)
        for seed in range(8)
    ]
    assert not runs[0].exact
    variance, covariance = across_data("m")
    wanted = [
        (lambda f: f["m"].variance, whole("m", 2)),
        (lambda f: f["rho"].variance, whole("rho", 2)),
        (lambda f: f["m"].plates["data"].variance, variance),
        (lambda f: f["m"].plates["data"].covariance, covariance),
        (lambda f: f["m"].terms["w"], Split(SCALE * (SCALE + B.mean() * N), 0.0)),
    ]
    for pick, expected in wanted:
        for kind in ("latent", "minibatch"):
            found = np.array([getattr(pick(run), kind) for run in runs])
            error = found.std(ddof=1) / math.sqrt(len(found))
            z = (found.mean() - getattr(expected, kind)) / error
            assert abs(z) < 5, (kind, found, expected)  # Student's t with 7 degrees: 0.2 %
    errors = [run["m"].standard_error.latent for run in runs]
    assert all(math.isfinite(e) and e > 0 for e in errors)


def test_the_draws_noise_is_taken_out_of_the_minibatches():
    """Data that are all alike: minibatches differ by the noise of their draws alone."""

    def model():
        w = pyro.sample("w", dist.Normal(f64(0.0), 1.0))
        with pyro.plate("data", 8, subsample_size=3):
            pyro.sample("y", dist.Normal(w, 1.0), obs=f64([0.7] * 3))

    _, guide = programs(None)
    found = variance_decomposition(
        model, guide, dsvi.PathwiseELBO(), num_minibatches=40, num_draws=4, num_elements=1
    )
    split = found["m"].variance
    assert split.latent == pytest.approx((9 * SCALE) ** 2, rel=0.4)
    assert abs(split.minibatch) < 0.15 * split.latent  # a quarter, if it were left in
    assert abs(found["m"].terms["y"].minibatch) < 0.15 * split.latent
    plate = found["m"].plates["data"]
    assert abs(plate.variance.minibatch) < 0.15 * plate.variance.latent


def test_a_bound_of_several_particles_is_no_sum_of_terms():
    found = variance_decomposition(*programs(2), dsvi.IWAE(3), num_minibatches=6, num_draws=4)
    assert found.total.terms == {}
    assert found.total.plates == {}
    assert "no sum over cost terms" in str(found)
    assert found.total.variance.latent > 0
    assert found.with_twice_the_particles() is None
    assert "prefer" in found.advice


def test_a_baselines_share_has_a_line_of_its_own():
    """What a moving average subtracts comes from no term, and the shares still add up."""
    score = dsvi.ScoreFunctionELBO(dsvi.MovingAverage())
    found = variance_decomposition(*programs(None), score)
    shares = sum(split.latent for split in found["m"].terms.values())
    assert "(no term)" in found["m"].terms
    assert shares == pytest.approx(found["m"].variance.latent, rel=1e-9)
    plain = variance_decomposition(*programs(None), dsvi.ScoreFunctionELBO())
    for name in ("m", "rho"):  # the data's shares are the same with and without
        one, two = found[name].plates["data"], plain[name].plates["data"]
        assert_split(one.variance, two.variance, 1e-8)
        assert_split(one.covariance, two.covariance, 1e-8)


# -- the report ----------------------------------------------------------------------------------


def test_it_prints_and_goes_to_pandas():
    found = variance_decomposition(*programs(2), dsvi.PathwiseELBO())
    text = str(found)
    for word in ("nats²", "O(1/M)", "O(1)", "cost term", "6 minibatches", "prefer"):
        assert word in text
    assert "<table>" in found._repr_html_()
    frame = found.to_pandas()
    assert frame.index.names == ["parameter", "kind", "name"]
    total = frame.loc[("m", "variance", ""), "total"]
    assert total == pytest.approx(whole("m", 2).total)
    parts = frame.xs(("m", "cost term"), level=("parameter", "kind"))["total"]
    assert parts.sum() == pytest.approx(total)


def test_nothing_is_disturbed():
    model, guide = programs(2)
    objective = dsvi.ScoreFunctionELBO(dsvi.MovingAverage())
    objective.loss_and_grads(model, guide)
    leaf = pyro.param("m").unconstrained()
    leaf.grad = f64(7.0)
    state, learnt = random_state(), copy.deepcopy(objective.state_dict())
    variance_decomposition(model, guide, objective, num_minibatches=2, num_draws=2)
    assert same_random_state(random_state(), state)
    assert str(objective.state_dict()) == str(learnt)
    assert leaf.grad == 7.0
    assert pyro.param("m") == MEAN


@pytest.mark.parametrize("options", [{"num_minibatches": 1}, {"num_draws": 1}, {"num_elements": 0}])
def test_refusals(options):
    with pytest.raises(InvalidArgument, match="at least"):
        variance_decomposition(*programs(2), dsvi.PathwiseELBO(), **options)


def test_something_else_is_refused():
    with pytest.raises(InvalidArgument, match="loss_and_grads"):
        variance_decomposition(*programs(2), "elbo")
