r"""Taylor and Delta: exact for a quadratic, unbiased elsewhere, by quadrature and z-scores."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import IWAE, Evidence
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, PlatesMergedWarning
from pyro_dsvi.estimators import Bias, Delta, OptimalScale, Pathwise, ScoreFunction, Taylor
from pyro_dsvi.estimators.gaussian import gaussian
from tests import oracles
from tests.copies import own_copies, step
from tests.scenarios import f64, hierarchy

MODES = [(1, True), (2, True), (2, False)]
MODE_NAMES = ["1", "2", "2 in a loop"]
ESTIMATORS = {
    "taylor": Taylor(),
    "taylor, one probe": Taylor(probes=1),
    "taylor, no probe": Taylor(probes=0),
    "delta": Delta(),
    "delta, one probe": Delta(probes=1),
    "delta, no probe": Delta(probes=0),
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


# -- nothing of the draw is left where log p is a quadratic --------------------------------------

W = f64([[1.2, -0.4, 0.3], [0.5, 0.9, -1.1], [-0.7, 0.2, 0.8]])
Y = f64([0.4, -1.0, 0.7])
START = {
    False: (f64([0.1, -0.3, 0.5]), f64([0.5, 0.4, 0.6])),
    True: (f64([0.1, -0.3, 0.5]), f64([[0.5, 0.0, 0.0], [0.1, 0.4, 0.0], [-0.2, 0.3, 0.6]])),
}


def law(loc: Tensor, factor: Tensor, full: bool):
    if full:
        return dist.MultivariateNormal(loc, scale_tril=factor)
    return dist.Normal(loc, factor).to_event(1)


def linear_gaussian(full: bool):
    """A linear Gaussian program, its parameters, and the gradient of its evidence bound."""
    loc, factor = (x.clone().requires_grad_() for x in START[full])

    def model():
        z = pyro.sample("z", law(torch.zeros(3), torch.eye(3) if full else torch.ones(3), full))
        mean = (W @ z.unsqueeze(-1)).squeeze(-1)
        pyro.sample("y", dist.Normal(mean, 0.7).to_event(1), obs=Y)

    def guide():
        pyro.sample("z", law(loc, factor, full))

    matrix = factor.tril() if full else torch.diag(factor)
    precision = torch.eye(3) + W.T @ W / 0.49
    value = -0.5 * (loc @ precision @ loc) + loc @ W.T @ Y / 0.49
    value = value - 0.5 * torch.trace(precision @ matrix @ matrix.T) + torch.logdet(matrix)
    return model, guide, (loc, factor), torch.autograd.grad(value, (loc, factor))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("particles", "side_by_side"), MODES, ids=MODE_NAMES)
@pytest.mark.parametrize("full", [False, True], ids=["normal", "multivariate"])
@pytest.mark.parametrize("estimator", [Taylor(), Delta()])
def test_no_variance_for_a_quadratic(estimator, full, particles, side_by_side, frozen):
    model, guide, parameters, truth = linear_gaussian(full)
    objective = dsvi.Objective(
        Evidence(),
        num_particles=particles,
        vectorize_particles=side_by_side,
        estimators={"z": estimator},
        frozen=frozen,
    )
    for _ in range(3):
        for found, expected in zip(step(objective, model, guide, parameters), truth, strict=True):
            found = found.tril() if found.dim() == 2 else found
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_no_variance_with_closed_forms():
    model, guide, parameters, truth = linear_gaussian(False)
    objective = dsvi.Objective(Evidence(), estimators={"z": Taylor()}, analytic_kl=True)
    for found, expected in zip(step(objective, model, guide, parameters), truth, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("full", [False, True], ids=["normal", "multivariate"])
def test_scores_are_those_of_the_density(full):
    loc, factor = (x.clone().requires_grad_() for x in START[full])
    q = law(loc, factor, full)
    z = q.sample((4,)).detach()
    q = q.expand([4])
    read = gaussian(q, z)
    by_loc, by_factor = read.scores(read.noise(z))
    expected = torch.autograd.grad(q.log_prob(z).sum(), (loc, factor))
    torch.testing.assert_close(by_loc.sum(0), expected[0])
    torch.testing.assert_close(by_factor.sum(0), expected[1])
    torch.testing.assert_close(read.stretch(read.noise(z)), z - loc.detach())


# -- exact by quadrature -------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("bound", "by_hand"), [(Evidence(), oracles.evidence), (IWAE(), oracles.renyi(0.0))]
)
@pytest.mark.parametrize(("particles", "side_by_side"), MODES, ids=MODE_NAMES)
@pytest.mark.parametrize("probes", [0, 5])
def test_pathwise_part_is_exact_at_any_number_of_nodes(
    bound, by_hand, particles, side_by_side, probes, frozen
):
    """What Taylor adds to the pathwise gradient has mean zero at the nodes of a quadrature."""
    answers = []
    for estimator in (Taylor(probes=probes), Pathwise()):
        objective = dsvi.Objective(
            bound,
            num_particles=particles,
            vectorize_particles=side_by_side,
            estimators={"y": estimator},
            frozen=frozen,
        )
        exact = oracles.Exact(objective, hierarchy, side_by_side=side_by_side, warm_up=0)
        answers.append(exact.expectation_in_copies(3))
    oracles.assert_same_gradient(*answers)
    if not frozen:  # else it takes an integration by parts
        truth = oracles.truth(hierarchy, by_hand, particles, 3)
        oracles.assert_same_gradient(answers[0], truth.gradient)


# -- z-scores through a whole program ------------------------------------------------------------

COPIES = 8000
LEARNT = {"u": f64([0.3]), "s": f64([-0.5]), "m": f64([[0.2, -0.4]]), "r": f64([[-0.6, -0.2]])}


def everything(own, copies):
    """An upstream scalar, a plate of two events, their densities not quadratic, a common datum."""
    outer = pyro.plate("copies", copies, dim=-2)
    pair = pyro.plate("pair", 2, dim=-1)

    def model():
        with outer:
            u = pyro.sample("u", dist.Normal(torch.tensor(0.2), 1.0))
            with pair:
                v = pyro.sample(
                    "v", dist.Normal(torch.tanh(u).unsqueeze(-1), torch.ones(2)).to_event(1)
                )
                pyro.factor("x", -torch.cosh(0.4 * v[..., 0] - 0.5 * v[..., 1] * v[..., 0]))
            common = v.sum(-1).sum(-1, keepdim=True)
            pyro.factor("y", -((torch.sin(common) + u) ** 2))

    def guide():
        with outer:
            u = pyro.sample("u", dist.Normal(own["u"], own["s"].exp()))
            with pair:
                loc = own["m"] + 0.5 * u.unsqueeze(-1)
                pyro.sample("v", dist.Normal(loc, own["r"].exp()).to_event(1))

    return model, guide


def estimates(
    make, bound, particles: int, side_by_side: bool, frozen: bool = False, steps: int = 1
):
    own = {name: own_copies(value, COPIES) for name, value in LEARNT.items()}
    model, guide = everything(own, COPIES)
    objective = dsvi.Objective(
        bound,
        num_particles=particles,
        vectorize_particles=side_by_side,
        estimators={"u": make(), "v": make()},
        frozen=frozen,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlatesMergedWarning)
        for _ in range(steps):
            found = step(objective, model, guide, own.values())
    return torch.cat([x.reshape(COPIES, -1) for x in found], -1)


@pytest.mark.parametrize(("particles", "side_by_side"), MODES, ids=MODE_NAMES)
@pytest.mark.parametrize("bound", [Evidence(), IWAE()])
@pytest.mark.parametrize("kind", [*ESTIMATORS, "scaled taylor", "scaled delta"])
def test_everything(kind, bound, particles, side_by_side):
    """Against the pathwise gradient of another ten times as many draws."""
    scaled = kind.removeprefix("scaled ")
    one = ESTIMATORS[scaled]
    make = (lambda: OptimalScale(one)) if scaled != kind else (lambda: one)
    found = estimates(make, bound, particles, side_by_side, steps=2 if scaled != kind else 1)
    mean, error = reference(bound, particles)
    score = (found.mean(0) - mean) / (found.var(0) / COPIES + error**2).sqrt()
    assert float(score.abs().max()) < 4.5, score.tolist()


_REFERENCE: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}


def reference(bound, particles: int) -> tuple[Tensor, Tensor]:
    key = (type(bound).__name__, particles)
    if key not in _REFERENCE:
        found = torch.cat([estimates(Pathwise, bound, particles, True) for _ in range(10)])
        _REFERENCE[key] = (found.mean(0), found.std(0) / len(found) ** 0.5)
    return _REFERENCE[key]


def test_frozen_under_iwae():
    found = estimates(Taylor, IWAE(), 2, True, frozen=True)
    mean, error = reference(IWAE(), 2)
    score = (found.mean(0) - mean) / (found.var(0) / COPIES + error**2).sqrt()
    assert float(score.abs().max()) < 4.5, score.tolist()


def test_variance_falls():
    """At a guide whose draws stay where the expansion is good."""
    path = estimates(Pathwise, Evidence(), 1, True).var(0).sum()
    score = estimates(ScoreFunction, Evidence(), 1, True).var(0).sum()
    taylor = estimates(lambda: OptimalScale(Taylor()), Evidence(), 1, True, steps=3).var(0).sum()
    delta = estimates(lambda: OptimalScale(Delta()), Evidence(), 1, True, steps=3).var(0).sum()
    assert float(taylor) < float(path)
    assert float(delta) < 0.7 * float(score)


# -- the coefficient -----------------------------------------------------------------------------


def one_dimensional(curvature: float, copies: int):
    """F = -z² + curvature · a term that no expansion sees, in copies that share a coefficient."""
    loc = torch.full((copies,), 0.4, requires_grad=True)

    def model():
        with pyro.plate("copies", copies):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.factor("f", -(z**2) + curvature * torch.sin(8 * z))

    def guide():
        with pyro.plate("copies", copies):
            pyro.sample("z", dist.Normal(loc, 0.5))

    return model, guide, loc


def test_coefficient_is_that_of_least_variance():
    """In many copies the moments are those of the population: a* = -E[G C] / E[C²]."""
    model, guide, loc = one_dimensional(0.2, 20_000)
    variances = {}
    for kind in ("none", "fixed", "fitted"):
        estimator = {"none": Pathwise(), "fixed": Taylor(), "fitted": OptimalScale(Taylor())}[kind]
        objective = dsvi.Objective(Evidence(), estimators={"z": estimator})
        for _ in range(2):
            (found,) = step(objective, model, guide, [loc])
        variances[kind] = float(found.var())
    assert variances["fitted"] < 0.98 * min(variances["none"], variances["fixed"])


class Forced(Messenger):
    """Gives the site its noise, one particle's from outside."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and not (msg["done"] or msg["is_observed"]):
            q = msg["fn"]
            msg["value"] = q.base_dist.loc + q.base_dist.scale * self.noise
            msg["done"] = True


@pytest.mark.parametrize("bound", [Evidence(), IWAE()])
def test_coefficient_does_not_see_its_own_draw(bound):
    """With the other particle held, what a particle adds, a C, is odd in its noise, as C is.

    It is so if a is the same for either sign: fitted to the other particle under an additive bound,
    to past steps under IWAE, where the other particle's C depends on this one's draw.
    """
    loc = torch.tensor([0.4], requires_grad=True)

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.factor("f", -(z**3).sum(-1))

    def guide():
        pyro.sample("z", dist.Normal(loc, torch.full((1,), 0.5)).to_event(1))

    def added(noise):
        gradients = []
        for estimator in (OptimalScale(Taylor()), Pathwise()):
            objective = dsvi.Objective(
                bound, num_particles=2, vectorize_particles=True, estimators={"z": estimator}
            )
            with Forced(f64(noise)):
                gradients.append(step(objective, model, guide, [loc])[0])
        return gradients[0] - gradients[1]

    # The second particle's C is fitted to the first's draw alone, so the sum over the first's
    # signs leaves what the second adds; and the other way round.
    total = sum(added([[a], [b]]) for a in (-0.7, 0.7) for b in (-1.1, 1.1))
    torch.testing.assert_close(total, torch.zeros(1), rtol=0, atol=1e-12)


def test_state_is_saved_and_inherited():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(z**4))

    loc = torch.tensor(0.3, requires_grad=True)

    def guide():
        infer = {"estimator": OptimalScale(Taylor())}
        pyro.sample("z", dist.Normal(loc, 0.5), infer=infer)

    objective = dsvi.Objective(Evidence(), num_particles=3)
    sums = []
    for _ in range(3):
        step(objective, model, guide, [loc])
        (state,) = objective.state_dict().values()
        sums.append(state["z"])
    assert all(row.shape == (4,) for row in sums)
    assert (sums[2][2:] > 0.9 * sums[1][2:]).all()  # it grows on from the step before
    other = dsvi.Objective(Evidence(), num_particles=3)
    other.load_state_dict(objective.state_dict())
    other.loss(model, guide)
    (restored,) = other.state_dict().values()
    assert torch.equal(restored["z"], sums[2])


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [Taylor(), Delta(), OptimalScale(Delta())])
@pytest.mark.parametrize(
    "q",
    [
        dist.Gamma(torch.tensor(1.0), 1.0),
        dist.LogNormal(torch.tensor(0.0), 1.0),
        dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
        dist.Bernoulli(torch.tensor(0.5)),
    ],
)
def test_refused_laws(estimator, q):
    def program():
        pyro.sample("z", q)

    words = "site 'z'.*neither a Normal nor a MultivariateNormal"
    with pytest.raises(IncompatibleSite, match=words):
        dsvi.Objective(Evidence(), estimators={"z": estimator}).loss_and_grads(program, program)


def test_refused_upstream_of_a_draw_without_gradient():
    def program():
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("b", dist.Bernoulli(logits=z))

    with pytest.raises(IncompatibleSite, match="Taylor differentiates its credit, but draws"):
        dsvi.Objective(Evidence(), estimators={"z": Taylor()}).loss_and_grads(program, program)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Taylor(probes=-1), "Taylor: probes"),
        (lambda: Delta(probes=True), "Delta: probes"),
        (lambda: OptimalScale(Pathwise()), "Pathwise has no control variate"),
        (lambda: OptimalScale(OptimalScale(Taylor())), "OptimalScale has no control variate"),
        (lambda: OptimalScale(3), "3 has no control variate"),
        (lambda: OptimalScale(Taylor(), decay=1.0), "decay must be in"),
        (lambda: OptimalScale(Taylor(), limit=0.0), "limit must be positive"),
    ],
)
def test_refused_arguments(make, words):
    with pytest.raises(InvalidArgument, match=words):
        make()


def test_declared_unbiased():
    for estimator in (Taylor(), Delta(), OptimalScale(Taylor()), OptimalScale(Delta())):
        assert estimator.bias is Bias.UNBIASED
    assert OptimalScale(Taylor()).passes_gradient
    assert not OptimalScale(Delta()).passes_gradient
