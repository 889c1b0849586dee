"""Gumbel-softmax and straight-through: exact laws, gradients by hand, and the bias they have."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.nn.functional import softplus

import pyro_dsvi as dsvi
from pyro_dsvi.errors import BiasedEstimatorWarning, IncompatibleSite, InvalidArgument
from pyro_dsvi.estimators.relaxation import extended_log_prob
from tests.scenarios import f64

ETA = f64([0.4, -1.1, 2.0])
MODES = pytest.mark.parametrize("side_by_side", [True, False])


def bits(size: int, eta: Tensor = ETA) -> dist.Distribution:
    return dist.Bernoulli(logits=eta.expand(size, 3))


def one_hot(size: int, eta: Tensor = ETA) -> dist.Distribution:
    return dist.OneHotCategorical(logits=eta.expand(size, 3))


# -- the law of a draw -----------------------------------------------------------------------

SIZE = 40_000


def assert_frequencies(found: Tensor, probability: Tensor) -> None:
    error = (probability * (1 - probability) / SIZE).sqrt()
    assert ((found.mean(0) - probability).abs() < 4 * error).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_hard_draws_are_of_the_guides_law(temperature):
    """Whatever the temperature; and exactly 0 or 1, with a gradient."""
    estimator = dsvi.GumbelSoftmax(temperature, hard=True)
    z = estimator.draw(bits(SIZE))
    assert ((z == 0) | (z == 1)).all()
    assert_frequencies(z, torch.sigmoid(ETA))
    z = estimator.draw(one_hot(SIZE))
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(-1) == 1).all()
    assert_frequencies(z, torch.softmax(ETA, -1))


def test_straight_through_draws_are_of_the_guides_law():
    for q, probability in ((bits(SIZE), ETA.sigmoid()), (one_hot(SIZE), ETA.softmax(-1))):
        z = dsvi.StraightThrough().draw(q)
        assert ((z == 0) | (z == 1)).all()
        assert_frequencies(z, probability)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_soft_bits_are_concrete(temperature):
    """Kolmogorov and Smirnov's test against P(z <= x) = σ(τ logit x − η)."""
    z = dsvi.GumbelSoftmax(temperature).draw(bits(SIZE))
    below = torch.sigmoid(temperature * torch.logit(z) - ETA)
    for i in range(3):
        assert scipy.stats.kstest(below[:, i].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_soft_vectors_are_concrete(temperature):
    """Against draws of torch's distribution: each coordinate, and their product."""
    z = dsvi.GumbelSoftmax(temperature).draw(one_hot(SIZE))
    assert torch.allclose(z.sum(-1), torch.ones(SIZE).double())
    theirs = dist.RelaxedOneHotCategorical(f64(temperature), logits=ETA).sample((SIZE,))
    for i in range(3):
        assert scipy.stats.ks_2samp(z[:, i].numpy(), theirs[:, i].numpy()).pvalue > 1e-3
    assert scipy.stats.ks_2samp(*(x.prod(-1).numpy() for x in (z, theirs))).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["bits", "one-hot"])
def test_same_noise_same_draw_as_torchs_relaxed_distribution(kind):
    """To the last digit, from the same uniform numbers; so the density is torch's as well."""
    t = f64(0.7)
    relaxed = dist.RelaxedBernoulli if kind == "bits" else dist.RelaxedOneHotCategorical
    q = bits(5) if kind == "bits" else one_hot(5)
    state = torch.get_rng_state()
    theirs = relaxed(t, logits=ETA.expand(5, 3)).rsample()
    torch.set_rng_state(state)
    torch.testing.assert_close(dsvi.GumbelSoftmax(t).draw(q), theirs, rtol=0, atol=1e-13)


# -- the extended density --------------------------------------------------------------------


def test_extended_density_agrees_at_the_points():
    for q in (bits(2), one_hot(2)):
        support = q.enumerate_support()
        torch.testing.assert_close(
            torch.stack([extended_log_prob(q, z) for z in support]),
            torch.stack([q.log_prob(z) for z in support]),
            rtol=0,
            atol=1e-14,
        )


WRAPPED: dict[str, Callable[[dist.Distribution], dist.Distribution]] = {
    "event": lambda q: q.to_event(1),
    "masked": lambda q: q.mask(torch.tensor([True, False]).reshape(2, *[1] * (q.batch_dim - 1))),
    "mask in event": lambda q: q.mask(torch.ones(q.batch_shape).bool()).to_event(1),
    "masked out": lambda q: q.mask(False),
    "masked in": lambda q: q.mask(True),
    "expanded": lambda q: q.expand([4, *q.batch_shape]),
    "expanded from outside": lambda q: ExpandedDistribution(q, torch.Size([4, *q.batch_shape])),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("kind", [bits, one_hot], ids=["bits", "one-hot"])
def test_wrappers(name, kind):
    """Linear between the points behind any wrapper, and drawn in the distribution's shape."""
    q = kind(2)
    q.batch_dim = len(q.batch_shape)
    q = WRAPPED[name](q)
    ends = [q.sample(), q.sample()]
    middle = [extended_log_prob(q, a * ends[0] + (1 - a) * ends[1]) for a in (0.0, 0.3, 1.0)]
    torch.testing.assert_close(middle[1], 0.7 * middle[0] + 0.3 * middle[2], rtol=0, atol=1e-13)
    expected = q.log_prob(ends[0]).double()
    torch.testing.assert_close(middle[2], expected, rtol=0, atol=1e-13)
    for estimator in (dsvi.GumbelSoftmax(0.5), dsvi.GumbelSoftmax(0.5, hard=True)):
        assert estimator.objection(q) is None
        assert estimator.draw(q).shape == q.shape()
    assert dsvi.StraightThrough().draw(q).shape == q.shape()


def test_a_value_of_no_probability_counts_nothing():
    logits = f64([0.2, -math.inf, -0.4]).requires_grad_()
    q = dist.OneHotCategorical(logits=logits)
    z = dsvi.GumbelSoftmax(0.5).draw(q)
    assert z[1] == 0
    log_q = extended_log_prob(q, z)
    (gradient,) = torch.autograd.grad(log_q, logits)
    assert log_q.isfinite()
    assert gradient.isfinite().all()


# -- the gradient, by hand -------------------------------------------------------------------

PRIOR, SLOPE, X = -0.4, 1.3, 0.8


def programs(site: Callable[..., dist.Distribution], estimator=None):
    """Prior, guide and a Gaussian likelihood, for one draw of either kind."""
    eta = pyro.param("eta", ETA.clone())

    def likelihood(z):
        pyro.sample("x", dist.Normal((z * f64([1.0, 2.0, 3.0])).sum(-1) * SLOPE, 1.0), obs=f64(X))

    def model():
        likelihood(pyro.sample("z", site(torch.zeros_like(eta) + PRIOR)))

    def guide():
        infer = {} if estimator is None else {"estimator": estimator}
        pyro.sample("z", site(pyro.param("eta")), infer=infer)

    return model, guide


def bits_site(eta):
    return dist.Bernoulli(logits=eta).to_event(1)


def one_hot_site(eta):
    return dist.OneHotCategorical(logits=eta)


def elbo_of_bits(z, eta):
    log_p = (z * PRIOR - softplus(f64(PRIOR))).sum(-1)
    return log_p - (z * eta - softplus(eta)).sum(-1) + log_x(z)


def elbo_of_one_hot(z, eta):
    return -math.log(3) * z.sum(-1) - (z * eta.log_softmax(-1)).sum(-1) + log_x(z)


def log_x(z):
    mean = (z * f64([1.0, 2.0, 3.0])).sum(-1) * SLOPE
    return -((X - mean) ** 2) / 2 - math.log(2 * math.pi) / 2


KINDS = {"bits": (bits_site, elbo_of_bits), "one-hot": (one_hot_site, elbo_of_one_hot)}


def by_hand(kind: str, estimator, eta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The relaxed draw from the same random numbers, written out."""
    if isinstance(estimator, dsvi.StraightThrough):
        if kind == "bits":
            value, carrier = torch.bernoulli(eta.sigmoid().detach().expand(shape)), eta.sigmoid()
        else:
            carrier = eta.softmax(-1)
            value = dist.OneHotCategorical(carrier.detach().expand(shape)).sample()
        return value + carrier - carrier.detach()
    u = torch.rand(shape, dtype=torch.float64)
    if kind == "bits":
        scores = eta + u.log() - (1 - u).log()
        soft, value = 1 / (1 + (-scores / 0.6).exp()), (scores > 0).double()
    else:
        scores = eta - (-u.log()).log()
        soft = (scores / 0.6).exp() / (scores / 0.6).exp().sum(-1, keepdim=True)
        value = (scores == scores.max(-1, keepdim=True)[0]).double()
    return soft + (value - soft).detach() if estimator.hard else soft


ESTIMATORS = {
    "soft": dsvi.GumbelSoftmax(0.6),
    "hard": dsvi.GumbelSoftmax(0.6, hard=True),
    "straight-through": dsvi.StraightThrough(),
}


@pytest.mark.parametrize("bound", ["evidence", "iwae"])
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", KINDS)
@MODES
def test_gradient_at_fixed_noise(kind, name, bound, side_by_side):
    """Loss and gradient of three particles are those of the formula, to rounding.

    Under Pyro's validation, which refuses a bit of 0.3 everywhere else.
    """
    site, elbo = KINDS[kind]
    model, guide = programs(site)
    objective = dsvi.Objective(
        dsvi.bounds.Evidence() if bound == "evidence" else dsvi.bounds.IWAE(),
        num_particles=3,
        vectorize_particles=side_by_side,
        max_plate_nesting=0,
        estimators={"z": ESTIMATORS[name]},
    )
    with pytest.warns(BiasedEstimatorWarning):
        objective.loss(model, guide)
    state = torch.get_rng_state()
    loss = objective.loss_and_grads(model, guide)
    torch.set_rng_state(state)
    eta = ETA.clone().requires_grad_()
    if side_by_side:
        z = by_hand(kind, ESTIMATORS[name], eta, (3, 3))
    else:
        z = torch.stack([by_hand(kind, ESTIMATORS[name], eta, (3,)) for _ in range(3)])
    log_w = elbo(z, eta)
    expected = log_w.mean() if bound == "evidence" else log_w.logsumexp(0) - math.log(3)
    (gradient,) = torch.autograd.grad(expected, eta)
    assert -loss == pytest.approx(float(expected.detach()), abs=1e-12)
    torch.testing.assert_close(-pyro.param("eta").grad, gradient, rtol=0, atol=1e-12)


# -- the bias --------------------------------------------------------------------------------

GRID = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def one_bit(estimator, noise: Tensor) -> tuple[Tensor, float]:
    """Gradient of E[(b - 0.45)²] in eta = 0.3 over a grid of noise, and the true one."""
    eta = f64(0.3).requires_grad_()
    q = dist.Bernoulli(logits=eta.expand(len(noise)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda _: noise)
        z = estimator.draw(q)
    (gradient,) = torch.autograd.grad(((z - 0.45) ** 2).mean(), eta)
    p = eta.detach().sigmoid()
    return gradient, float(p * (1 - p) * (0.55**2 - 0.45**2))


def test_bias_shrinks_with_the_temperature():
    """By quadrature over the noise of one bit: never zero, and in the end as the temperature."""
    biases = []
    for temperature in (0.5, 0.25, 0.125, 0.0625, 0.03125):
        gradient, truth = one_bit(dsvi.GumbelSoftmax(temperature), GRID)
        biases.append(float(gradient) - truth)
    assert min(biases) > 1e-3
    assert biases == sorted(biases, reverse=True)
    assert biases[-2] / biases[-1] == pytest.approx(2, rel=0.05)


def test_hard_draws_have_a_bias_too():
    gradient, truth = one_bit(dsvi.GumbelSoftmax(0.5, hard=True), GRID)
    assert abs(float(gradient) - truth) > 1e-2


@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_straight_through_is_right_for_a_linear_cost_alone(curvature):
    """Over both values of a bit: E[f'(b)] p(1 − p), where f(1) − f(0) would be right."""
    eta = f64(0.3).requires_grad_()
    p = eta.sigmoid()
    expected = f64(0.0)
    for b in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist.Bernoulli, "sample", lambda q, shape=(), b=b: f64(b))
            z = dsvi.StraightThrough().draw(dist.Bernoulli(logits=eta))
        cost = 0.7 * z + curvature * (z - 0.3) ** 2
        weight = p.detach() if b else 1 - p.detach()
        expected = expected + weight * torch.autograd.grad(cost, eta, retain_graph=True)[0]
    p = p.detach()
    slope = float(p * (1 - p))
    true = slope * (0.7 + curvature * (0.7**2 - 0.3**2))
    by_formula = slope * (0.7 + curvature * (2 * float(p) - 0.6))
    assert float(expected) == pytest.approx(by_formula, abs=1e-14)
    assert (abs(float(expected) - true) < 1e-14) == (curvature == 0)


def test_value_of_hard_draws_is_the_bounds():
    """The loss of discrete values is an estimate of the bound; that of soft ones is of another."""
    model, guide = programs(bits_site)
    support = dist.Bernoulli(ETA.sigmoid()).to_event(1).base_dist
    z = torch.cartesian_prod(*[f64([0.0, 1.0])] * 3)
    truth = float((support.log_prob(z).sum(-1).exp() * elbo_of_bits(z, ETA)).sum())
    for name, estimator in ESTIMATORS.items():
        objective = dsvi.Objective(
            dsvi.bounds.Evidence(), num_particles=20_000, estimators={"z": estimator}
        )
        with pytest.warns(BiasedEstimatorWarning):
            value = -objective.loss(model, guide)
        error = 5.0 / math.sqrt(20_000)
        assert (abs(value - truth) < 4 * error) == (name != "soft")


# -- in programs -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@MODES
def test_plates_scales_and_masks(name, side_by_side):
    """Two plates, a minibatch, a mask and a site's own scale: against the formula."""

    def program(eta, observe):
        with pyro.plate("rows", 4, subsample=torch.tensor([2, 0]), dim=-2):
            with poutine.scale(scale=0.5):
                row = pyro.sample("row", dist.Bernoulli(logits=eta[0]))
            with pyro.plate("columns", 3, dim=-1):
                q = dist.OneHotCategorical(logits=eta.expand(2, 3, 3))
                z = pyro.sample("z", q.mask(torch.tensor([True, False, True])))
                if observe:
                    mean = row + z @ f64([1.0, 2.0, 3.0])
                    pyro.sample("x", dist.Normal(mean, 1.0), obs=f64(X).expand(2, 3))

    eta = ETA.clone().requires_grad_()
    objective = dsvi.Objective(
        dsvi.bounds.Evidence(),
        num_particles=2,
        vectorize_particles=side_by_side,
        max_plate_nesting=2,
        default=dsvi.strategy.Everywhere(ESTIMATORS[name]),
    )
    prior = torch.zeros(3).double()
    drawn = Values()
    with pytest.warns(BiasedEstimatorWarning), drawn:
        loss = objective.differentiable_loss(
            lambda: program(prior, True), lambda: program(eta, False)
        )
    total = f64(0.0)
    for row, z in zip(*(drawn.values[n][::2] for n in ("row", "z")), strict=True):
        bit = row * prior[0] - softplus(prior[0]) - (row * eta[0] - softplus(eta[0]))
        hot = (z * (prior.log_softmax(-1) - eta.log_softmax(-1))).sum(-1)
        mean = row + z @ f64([1.0, 2.0, 3.0])
        normal = -((f64(X) - mean) ** 2) / 2 - math.log(2 * math.pi) / 2
        total = total + 2 * (0.5 * bit.sum() + hot[..., [0, 2]].sum() + normal.sum())
    expected = -total / 2
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    found, wanted = (torch.autograd.grad(x, eta, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


class Values(poutine.messenger.Messenger):
    """Every value of every site, in the order of the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[Tensor]] = {}

    def _pyro_post_sample(self, msg):
        self.values.setdefault(msg["name"], []).append(msg["value"])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_beside_pathwise_and_score_sites(name):
    """Chosen site by site; what is drawn downstream of a soft value sees it."""

    def model():
        b = pyro.sample("b", dist.Bernoulli(f64(0.4)))
        z = pyro.sample("z", dist.Normal(b, 1.0))
        c = pyro.sample("c", dist.Bernoulli(logits=z))
        pyro.sample("x", dist.Normal(z + c, 1.0), obs=f64(X))

    def guide():
        eta = pyro.param("eta", f64(0.2))
        b = pyro.sample("b", dist.Bernoulli(logits=eta), infer={"estimator": ESTIMATORS[name]})
        pyro.sample("z", dist.Normal(b + pyro.param("m", f64(0.0)), 1.0))
        pyro.sample("c", dist.Bernoulli(logits=pyro.param("nu", f64(0.0))))

    objective = dsvi.MixedELBO(num_particles=16)
    with pytest.warns(BiasedEstimatorWarning, match="'b'.*biased") as said:
        objective.loss_and_grads(model, guide)
    assert len(said) == 1
    for parameter in ("eta", "m", "nu"):
        assert pyro.param(parameter).grad.abs() > 0
    objective.loss_and_grads(model, guide)  # and says it no more
    choices = objective.describe(model, guide)
    assert choices["b"].estimator.bias is dsvi.estimators.Bias.BIASED


def test_closed_forms_take_the_place_of_the_extended_densities():
    """KL(q‖p) of one bit is exact with any draw."""
    eta = f64(0.3).requires_grad_()
    objective = dsvi.Objective(
        dsvi.bounds.Evidence(), analytic_kl=True, estimators={"b": dsvi.GumbelSoftmax(0.5)}
    )
    with pytest.warns(BiasedEstimatorWarning):
        loss = objective.differentiable_loss(
            lambda: pyro.sample("b", dist.Bernoulli(f64(0.4))),
            lambda: pyro.sample("b", dist.Bernoulli(logits=eta)),
        )
    p = eta.sigmoid()
    exact = p * (p / 0.4).log() + (1 - p) * ((1 - p) / 0.6).log()
    torch.testing.assert_close(loss, exact, rtol=0, atol=1e-12)


# -- the temperature -------------------------------------------------------------------------


def test_temperature_by_schedule_or_learnt():
    steps = iter([1.0, 0.5, 0.0])
    estimator = dsvi.GumbelSoftmax(lambda: next(steps))
    state = torch.get_rng_state()
    for temperature in (1.0, 0.5):
        torch.set_rng_state(state)
        expected = dsvi.GumbelSoftmax(temperature).draw(bits(1))
        torch.set_rng_state(state)
        assert torch.equal(estimator.draw(bits(1)), expected)
    with pytest.raises(InvalidArgument, match=r"temperature must be positive, got 0\.0"):
        estimator.draw(bits(1))
    learnt = torch.nn.Parameter(f64(0.5))
    dsvi.GumbelSoftmax(learnt).draw(bits(1)).sum().backward()
    assert learnt.grad is not None
    assert learnt.grad.abs() > 0


@pytest.mark.parametrize(
    "temperature",
    [0.0, -1, math.nan, math.inf, torch.tensor(0.0), torch.ones(2), "cold", None, True],
)
def test_temperature_refused(temperature):
    with pytest.raises(InvalidArgument, match="GumbelSoftmax: temperature must be"):
        dsvi.GumbelSoftmax(temperature)


def test_hard_is_a_truth_value():
    with pytest.raises(InvalidArgument, match="hard must be True or False"):
        dsvi.GumbelSoftmax(1.0, hard="yes")


# -- refusals --------------------------------------------------------------------------------

REFUSED = {
    "Categorical": (lambda: dist.Categorical(logits=ETA), "sample a OneHotCategorical instead"),
    "Binomial": (lambda: dist.Binomial(3, f64(0.3)), "Binomial is neither a Bernoulli nor"),
    "Poisson": (lambda: dist.Poisson(f64(3.0)), "Poisson is neither a Bernoulli nor"),
    "Normal": (lambda: dist.Normal(f64(0.0), 1.0), r"Normal is reparameterised .*Pathwise\(\)"),
    "RelaxedBernoulli": (
        lambda: dist.RelaxedBernoulli(f64(0.5), logits=f64(0.1)),
        r"RelaxedBernoulli is reparameterised .*Pathwise\(\)",
    ),
}


@pytest.mark.parametrize("estimator", [dsvi.GumbelSoftmax(0.5), dsvi.StraightThrough()])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name, estimator):
    q, reason = REFUSED[name]
    objective = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": estimator})
    with pytest.raises(IncompatibleSite, match=f"'z': {type(estimator).__name__}: .*{reason}"):
        objective.loss(lambda: pyro.sample("z", q()), lambda: pyro.sample("z", q()))


@pytest.mark.parametrize("estimator", [dsvi.GumbelSoftmax(0.5), dsvi.StraightThrough()])
def test_frozen_refused(estimator):
    model, guide = programs(bits_site, estimator)
    with pytest.raises(IncompatibleSite, match=r"'z': .* with frozen=True: freezing rests on"):
        dsvi.STL().loss(model, guide)


def test_model_without_density_at_relaxed_values():
    objective = dsvi.Objective(dsvi.bounds.Evidence(), estimators={"z": dsvi.GumbelSoftmax(0.5)})
    refused = pytest.raises(IncompatibleSite, match="'z': Geometric has no density at relaxed")
    with pytest.warns(BiasedEstimatorWarning), refused:
        objective.loss(
            lambda: pyro.sample("z", dist.Geometric(f64(0.5))),
            lambda: pyro.sample("z", dist.Bernoulli(f64(0.5))),
        )


def test_training_by_svi():
    """One bit learns its posterior to within the bias of a low temperature."""

    def model():
        b = pyro.sample("b", dist.Bernoulli(f64(0.5)))
        pyro.sample("x", dist.Normal(b, 1.0), obs=f64(1.5))

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", f64(0.0))))

    objective = dsvi.Objective(
        dsvi.bounds.Evidence(), num_particles=64, estimators={"b": dsvi.GumbelSoftmax(0.3)}
    )
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
    with pytest.warns(BiasedEstimatorWarning):
        svi.step()
    for _ in range(200):  # and says it no more
        svi.step()
    assert float(pyro.param("eta").detach()) == pytest.approx(1.0, abs=0.3)
