r"""REBAR and RELAX: unbiased to rounding by quadrature over bits and hidden noise, and trained.

The hidden noise is a logistic t, or an exponential e = exp(t - exp(-t)), at the nodes of the
trapezoidal rule in t, which converges exponentially here.  Every node is a copy of the program with
parameters of its own; one step gives the estimate at all of them.
"""

import itertools
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor
from torch.nn.functional import softplus

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import IWAE, Evidence
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, PlatesMergedWarning
from pyro_dsvi.estimators import REBAR, RELAX, Delta, ScoreFunction, Taylor
from pyro_dsvi.estimators.hindsight import Gumbel, Logistic
from tests.copies import Given, assert_unbiased, own_copies, step
from tests.scenarios import f64


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)


def net(inputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(inputs, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


ESTIMATORS = {
    "rebar": lambda n: REBAR(),
    "rebar, far off": lambda n: REBAR(temperature=1.3, scale=-2.5),
    "relax": lambda n: RELAX(net(n), temperature=0.8),
    "relax, net alone": lambda n: RELAX(net(n), scale=None),
}
BOUNDS = [Evidence(), IWAE()]


def trapezoid(half_width: float, spacing: float) -> Tensor:
    return torch.arange(-half_width, half_width, spacing)


# -- exact, by quadrature ----------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_one_bit(monkeypatch, estimator, bound, frozen):
    """E over b and the noise behind it; the nodes are those of the noise given b."""
    t = trapezoid(40, 0.2)
    weight = 0.2 * torch.sigmoid(t) * torch.sigmoid(-t)
    bits = torch.tensor([0.0, 1.0])
    monkeypatch.setattr(Logistic, "draw", lambda self, like: t.repeat(2).reshape(like.shape))
    eta = torch.tensor(0.3, requires_grad=True)

    def cost(b):
        return 1.3 * b**2 - 0.4 * b + torch.sin(3 * b)

    q = torch.sigmoid(eta)
    log_p = -softplus(0.4 * (2 * bits - 1))
    log_q = torch.stack([1 - q, q]).log()
    truth = torch.autograd.grad((log_q.exp() * (log_p + cost(bits) - log_q)).sum(), eta)[0]

    own = own_copies(eta, 2 * len(t))
    law = pyro.plate("copies", len(own))

    def model():
        with law:
            b = pyro.sample("b", dist.Bernoulli(logits=torch.tensor(-0.4)))
            pyro.factor("f", cost(b))

    def guide():
        with law:
            pyro.sample("b", dist.Bernoulli(logits=own))

    objective = dsvi.Objective(bound, estimators={"b": estimator(1)}, frozen=frozen)
    with Given(b=bits.repeat_interleave(len(t))):
        (found,) = step(objective, model, guide, [own])
    probability = torch.cat([(1 - q) * weight, q * weight]).detach()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    assert float(probability @ found) == pytest.approx(float(truth), abs=1e-10)


@pytest.mark.parametrize(
    ("kind", "index"), [*((kind, False) for kind in ESTIMATORS), ("relax, net alone", True)]
)
def test_one_of_two_categories(monkeypatch, kind, index):
    """E over the category and two exponentials; the parameters are unnormalised logits."""
    one = ESTIMATORS[kind](2)
    t = trapezoid(6, 0.06)
    noise, weight = (t - (-t).exp()).exp(), 0.06 * (1 + (-t).exp())
    weight = weight * noise * (-noise).exp()
    nodes = -torch.cartesian_prod(noise, noise).clamp_min(1e-300).log()
    weight = torch.cartesian_prod(weight, weight).prod(-1)
    points = torch.eye(2)
    monkeypatch.setattr(Gumbel, "draw", lambda self, like: nodes.repeat(2, 1).reshape(like.shape))
    eta = torch.tensor([0.3, -0.5], requires_grad=True)
    prior = torch.tensor([0.6, 0.4])

    def cost(x):
        return (x[..., 0] - 0.3) ** 2 + 0.7 * x[..., 1]

    log_q = eta.log_softmax(0)
    value = (log_q.exp() * (prior.log() + cost(points) - log_q)).sum()
    truth = torch.autograd.grad(value, eta)[0]

    own = own_copies(eta, 2 * len(nodes))
    law = pyro.plate("copies", len(own))
    kind = dist.Categorical if index else dist.OneHotCategorical

    def model():
        with law:
            x = pyro.sample("x", kind(prior))
            pyro.factor("f", cost(points[x] if index else x))

    def guide():
        with law:
            pyro.sample("x", kind(logits=own))

    drawn = torch.arange(2).repeat_interleave(len(nodes))
    objective = dsvi.Objective(Evidence(), estimators={"x": one})
    with Given(x=drawn if index else points[drawn]):
        (found,) = step(objective, model, guide, [own])
    probability = (log_q.exp().detach()[:, None] * weight).flatten()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-11)
    torch.testing.assert_close(probability @ found, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("bound", BOUNDS)
def test_rebar_upstream_of_rebar(monkeypatch, bound):
    """A bit that another one hangs on: the other one's relaxed stand-in has noise of its own."""
    t = trapezoid(28, 0.4)
    weight = 0.4 * torch.sigmoid(t) * torch.sigmoid(-t)
    mine, other = torch.cartesian_prod(t, t).repeat(4, 1).T
    weight = torch.cartesian_prod(weight, weight).prod(-1)
    monkeypatch.setattr(Logistic, "draw", lambda self, like: mine.reshape(like.shape))
    monkeypatch.setattr(Logistic, "free", lambda self, logits, noise: logits + other)
    start = torch.tensor([0.3, -0.6, 1.1], requires_grad=True)  # of a, of b, of b's link to a
    values = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))

    def cost(a, b):
        return torch.sin(a + 2 * b) - 0.8 * a * b

    def log_prob(logit, bit):
        return bit * logit - softplus(logit)

    a, b = values.T
    log_q = log_prob(start[0], a) + log_prob(start[1] + start[2] * a, b)
    log_p = log_prob(torch.tensor(0.2), a) + log_prob(0.5 * a, b)
    expected = (log_q.exp() * (log_p + cost(a, b) - log_q)).sum()
    truth = torch.autograd.grad(expected, start)[0]

    own = own_copies(start, len(mine))
    law = pyro.plate("copies", len(own))

    def model():
        with law:
            a = pyro.sample("a", dist.Bernoulli(logits=torch.tensor(0.2)))
            b = pyro.sample("b", dist.Bernoulli(logits=0.5 * a))
            pyro.factor("f", cost(a, b))

    def guide():
        with law:
            a = pyro.sample("a", dist.Bernoulli(logits=own[:, 0]))
            pyro.sample("b", dist.Bernoulli(logits=own[:, 1] + own[:, 2] * a))

    estimators = {"a": REBAR(temperature=0.7), "b": REBAR(scale=0.6)}
    objective = dsvi.Objective(bound, estimators=estimators)
    with Given(a=a.repeat_interleave(len(weight)), b=b.repeat_interleave(len(weight))):
        (found,) = step(objective, model, guide, [own])
    probability = (log_q.exp().detach()[:, None] * weight).flatten()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-10)
    torch.testing.assert_close(probability @ found, truth, rtol=0, atol=1e-8)


# -- z-scores through whole programs -------------------------------------------------------------

COPIES = 6000
START = {
    "a": f64([[0.4, -0.7]]),
    "c": f64([0.2]),
    "link": f64([0.9]),
    "d": f64([[0.5, 0.0, -0.4]]),
}


def _mean(a, c, d):
    """Means of two local data and of one that all bits answer for; plates [copies, 2]."""
    local = 1.1 * c * (1 + a[..., :1]) - a[..., 1:]
    return local, 0.7 * c.sum(-1, keepdim=True) * (1 + d[..., 0:1]) + 0.5 * a[..., :1] - d[..., 1:2]


def everything(own: dict[str, Tensor]):
    """Two bits in an event, then a plate of two bits, and three categories; a common datum."""
    copies = pyro.plate("copies", COPIES, dim=-2)
    pair = pyro.plate("pair", 2, dim=-1)

    def joint(data: bool, a_logit, c_logit, d_logit):
        with copies:
            a = pyro.sample("a", dist.Bernoulli(logits=a_logit).to_event(1))
            d = pyro.sample("d", dist.OneHotCategorical(logits=d_logit))
            with pair:
                c = pyro.sample("c", dist.Bernoulli(logits=c_logit(a)))
            if not data:
                return
            # a plate's axis becomes an event's for the formula
            local, common = _mean(a.squeeze(-2), c, d.squeeze(-2))
            with pair:
                pyro.sample("x", dist.Normal(local, 1.0), obs=torch.tensor([0.8, -0.3]))
            pyro.sample("y", dist.Normal(common, 0.8), obs=torch.tensor(1.2))

    def model():
        joint(True, torch.zeros(2), lambda a: 0.3 * a.sum(-1), torch.zeros(3))

    def guide():
        joint(False, own["a"], lambda a: own["c"] + own["link"] * a.sum(-1), own["d"])

    return model, guide


def truth_of_everything(iwae: bool, particles: int) -> dict[str, Tensor]:
    parameters = {n: v.clone().requires_grad_() for n, v in START.items()}
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    eye = torch.eye(3)
    a = bits[:, :2].repeat_interleave(3, 0)
    c = bits[:, 2:].repeat_interleave(3, 0)
    d = eye.repeat(16, 1)

    def bernoulli(logit, b):
        return (b * logit - softplus(logit)).sum(-1)

    def log_joint(a_logit, c_logit, d_logit):
        return bernoulli(a_logit, a) + bernoulli(c_logit, c) + (d * d_logit.log_softmax(-1)).sum(-1)

    total = a.sum(-1, keepdim=True)
    log_q = log_joint(
        parameters["a"], parameters["c"] + parameters["link"] * total, parameters["d"]
    )
    local, common = _mean(a, c, d)
    log_p = log_joint(torch.zeros(2), 0.3 * total, torch.zeros(3))
    log_p = log_p - ((local - torch.tensor([0.8, -0.3])) ** 2).sum(-1) / 2
    log_p = (
        log_p - (common[:, 0] - 1.2) ** 2 / 2 / 0.64 - math.log(0.8) - 1.5 * math.log(2 * math.pi)
    )
    log_w = log_p - log_q
    if iwae and particles == 2:
        pair = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
        value = ((log_q[:, None] + log_q).exp() * pair).sum()
    else:
        value = (log_q.exp() * log_w).sum()
    gradient = torch.autograd.grad(value, list(parameters.values()))
    return dict(zip(parameters, gradient, strict=True))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", [(1, True), (2, True), (2, False)], ids=["1", "2", "2 in a loop"])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("kind", ["rebar", "relax", "relax, net alone"])
def test_everything(kind, bound, mode, frozen):
    particles, side_by_side = mode
    own = {name: own_copies(value, COPIES) for name, value in START.items()}
    model, guide = everything(own)
    make = ESTIMATORS[kind]
    objective = dsvi.Objective(
        bound,
        num_particles=particles,
        vectorize_particles=side_by_side,
        estimators={"a": make(2), "c": make(1), "d": make(3)},
        frozen=frozen,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlatesMergedWarning)
        found = step(objective, model, guide, own.values())
    truth = truth_of_everything(isinstance(bound, IWAE), particles)
    for name, gradient in zip(own, found, strict=True):
        assert_unbiased(gradient.reshape(COPIES, -1), truth[name].reshape(-1))


@pytest.mark.parametrize("estimator", [Taylor(), Delta()])
def test_downstream_of_an_expansion(estimator):
    """A Gaussian site's slopes pass through a bit's relaxed stand-in; the truth by quadrature."""
    x, w = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(60))
    start = f64([0.3, -0.4, 0.8]).requires_grad_()  # mean and log scale of z, the bit's link
    z = start[0] + start[1].exp() * x
    q = torch.sigmoid(start[2] * z)

    def cost(z, b):
        return torch.sin(z) * (1 + 2 * b) - b * z**2 / 4

    given_one, given_zero = cost(z, f64(1.0)) - q.log(), cost(z, f64(0.0)) - (1 - q).log()
    # log p(z) and log p(b) at their guide-free laws N(0, 1) and a fair coin; entropy of z
    inner = q * given_one + (1 - q) * given_zero - z**2 / 2
    value = (w * inner).sum() / math.sqrt(2 * math.pi) + start[1]
    truth = torch.autograd.grad(value, start)[0]

    own = own_copies(start, 20_000)
    plate = pyro.plate("copies", len(own))

    def model():
        with plate:
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            pyro.factor("f", cost(z, b))

    def guide():
        with plate:
            z = pyro.sample("z", dist.Normal(own[:, 0], own[:, 1].exp()))
            pyro.sample("b", dist.Bernoulli(logits=own[:, 2] * z))

    objective = dsvi.Objective(Evidence(), estimators={"z": estimator, "b": REBAR()})
    (found,) = step(objective, model, guide, [own])
    assert_unbiased(found, truth)


# -- learning ------------------------------------------------------------------------------------

P = f64([0.6, 0.51, 0.48])


def toy(eta: Tensor):
    """The toy of test_variance.py, its three bits at one site, in copies."""
    copies = pyro.plate("copies", len(eta))

    def program(logits, cost):
        with copies:
            with pyro.poutine.mask(mask=False):
                q = dist.Bernoulli(logits=logits.unsqueeze(-1).expand(-1, 3)).to_event(1)
                b = pyro.sample("b", q)
            if cost:
                pyro.factor("f", -((b - P) ** 2).sum(-1))

    return (lambda: program(torch.zeros(len(eta)), True)), (lambda: program(eta, False))


def variance(estimator, copies: int = 10_000) -> float:
    eta = torch.zeros(copies, requires_grad=True)
    objective = dsvi.Objective(Evidence(), estimators={"b": estimator})
    (found,) = step(objective, *toy(eta), [eta])
    truth = -float((1 - 2 * P).sum() / 4)
    assert_unbiased(found.unsqueeze(-1), torch.tensor([truth]))
    return float(found.var())


def tuned(estimator, steps: int, rate: float):
    """Trains what the estimator learns, at fixed parameters of the program."""
    eta = torch.zeros(100, requires_grad=True)
    objective = dsvi.Objective(Evidence(), estimators={"b": estimator})
    optimizer = torch.optim.Adam(objective.baselines.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        step(objective, *toy(eta), [eta])
        optimizer.step()
    return estimator


LEAVE_ONE_OUT = 0.0072750  # two draws, two evaluations: test_variance.py
EVALUATIONS = {"rebar": 2, "relax": 2, "relax, net alone": 1}


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_tuned_variance_is_below_leave_one_out(kind):
    """One draw; f is evaluated twice with the model in the control variate, once without."""
    estimator = ESTIMATORS[kind](3)
    before = variance(estimator)
    after = variance(tuned(estimator, 100, 0.05))
    assert after < before
    assert after < LEAVE_ONE_OUT


def test_evaluations():
    for kind, expected in EVALUATIONS.items():
        eta = torch.zeros(5, requires_grad=True)
        model, guide = toy(eta)
        rows = []

        def counted(model=model, rows=rows):
            rows.append(1)
            model()

        objective = dsvi.Objective(
            Evidence(), estimators={"b": ESTIMATORS[kind](3)}, vectorize_particles=False
        )
        step(objective, counted, guide, [eta])
        assert len(rows) == expected


def small(estimator, inline: bool = False):
    """A bit under SVI; the estimator is given in the guide if inline."""

    def model():
        b = pyro.sample("b", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(2 * b, 1.0), obs=torch.tensor(1.5))

    def guide():
        logit = pyro.param("logit", torch.tensor(0.2))
        infer = {"estimator": estimator()} if inline else {}
        pyro.sample("b", dist.Bernoulli(logits=logit), infer=infer)

    given = {} if inline else {"b": estimator()}
    return model, guide, dsvi.Objective(Evidence(), estimators=given)


@pytest.mark.parametrize("inline", [False, True])
def test_svi_trains_them_and_they_are_saved(inline):
    model, guide, objective = small(REBAR, inline)
    svi = SVI(model, guide, Adam({"lr": 0.01}), objective)
    name, path = "log_temperature", [math.log(0.5)]
    for _ in range(4):
        svi.step()
        found = dict(objective.baselines.named_parameters())
        assert sorted(found) == [f"at b.{name}", "at b.scale"]
        path.append(float(found[f"at b.{name}"].detach()))
    # Adam moves by about the rate, from where it was: nothing is lost between steps.
    moved = [abs(b - a) for a, b in itertools.pairwise(path)]
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert all(0 < size < 0.02 for size in moved)

    _, _, other = small(REBAR, inline)
    other.load_state_dict(objective.state_dict())
    other.loss(model, guide)  # a site that was not met yet waits for its state
    ours, theirs = objective.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, theirs[key])
        else:
            assert torch.equal(value["b"], theirs[key]["b"])


def test_the_auxiliary_loss_moves_nothing_else():
    """The program's gradient is the same at a coefficient that is learnt and at one that is not."""
    gradients = []
    for learnt in (True, False):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        estimator = REBAR()
        for parameter in estimator.learnt.parameters():
            parameter.requires_grad_(learnt)
        model, guide, objective = small(lambda estimator=estimator: estimator)
        guide()
        objective.loss_and_grads(model, guide)
        gradients.append(pyro.param("logit").grad.clone())
        assert (estimator.learnt.log_temperature.grad is not None) == learnt
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_network_sees_inputs_in_a_plate():
    """The network gets the relaxed value first, then the inputs; subsampling is divided out."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, rows):
            seen.append(rows)
            return rows.sum(-1)

    x = torch.randn(6, 2)

    def model(x):
        with pyro.plate("n", 6, subsample_size=3) as i:
            b = pyro.sample("b", dist.Bernoulli(0.5 * torch.ones(3, 2)).to_event(1))
            pyro.sample("y", dist.Normal(b.sum(-1), 1.0), obs=x[i, 0])

    def guide(x):
        with pyro.plate("n", 6, subsample_size=3):
            pyro.sample("b", dist.Bernoulli(0.4 * torch.ones(3, 2)).to_event(1))

    for scale in (None, 1.0):
        relax = RELAX(Spy(), inputs=lambda x: x[:3], scale=scale)
        objective = dsvi.Objective(Evidence(), num_particles=4, estimators={"b": relax})
        objective.loss_and_grads(model, guide, x)
    for rows in seen:
        assert rows.shape == (4, 3, 4)
        torch.testing.assert_close(rows[..., 2:], x[:3].expand(4, 3, 2))


def test_impossible_categories_do_no_harm():
    logits = torch.tensor([0.1, -torch.inf, 0.4], requires_grad=True)

    def model():
        x = pyro.sample("x", dist.OneHotCategorical(torch.ones(3) / 3))
        pyro.sample("y", dist.Normal(x[..., 0] - x[..., 2], 1.0), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("x", dist.OneHotCategorical(logits=logits))

    rebar = REBAR()
    objective = dsvi.Objective(Evidence(), num_particles=3, estimators={"x": rebar})
    objective.loss_and_grads(model, guide)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in rebar.learnt.parameters())


# -- refusals ------------------------------------------------------------------------------------


def _step(q, estimator, p=None, downstream=None):
    def model():
        z = pyro.sample("z", p if p is not None else q)
        if downstream is not None:
            pyro.sample("w", dist.Bernoulli(0.3), infer={})
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.0))

    def guide():
        z = pyro.sample("z", q)
        if downstream is not None:
            pyro.sample("w", dist.Bernoulli(torch.sigmoid(z)), infer={"estimator": downstream})

    dsvi.Objective(Evidence(), estimators={"z": estimator}).loss_and_grads(model, guide)


@pytest.mark.parametrize(
    ("q", "estimator", "words"),
    [
        (dist.Categorical(torch.ones(3)), REBAR(), "sample a OneHotCategorical"),
        (dist.Categorical(torch.ones(3)), RELAX(net(3)), "sample a OneHotCategorical"),
        (dist.Normal(0.0, 1.0), REBAR(), "Normal is neither a Bernoulli nor"),
        (dist.Poisson(1.0), RELAX(net(1), scale=None), "Poisson is neither a Bernoulli nor"),
        (dist.Bernoulli(0.5), RELAX(torch.nn.Linear(1, 2)), "one number for each row"),
    ],
)
def test_refused_sites(q, estimator, words):
    with pytest.raises(IncompatibleSite, match=words):
        _step(q, estimator)


def test_refused_between_laws_without_relaxed_density():
    with pytest.raises(IncompatibleSite, match="site 'z': Poisson has no density at relaxed"):
        _step(dist.Bernoulli(0.5), REBAR(), p=dist.Poisson(0.4))


@pytest.mark.parametrize(
    "step_of",
    [lambda b: (b > 0.5).double(), lambda b: f64([0.2, 0.9])[b.long()]],
    ids=["comparison", "index"],
)
@pytest.mark.parametrize("bound", BOUNDS)
def test_refused_steps_of_the_value(step_of, bound):
    def model():
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(step_of(b), 1.0), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("b", dist.Bernoulli(torch.tensor(0.4)))

    objective = dsvi.Objective(bound, estimators={"b": REBAR()})
    with pytest.raises(IncompatibleSite, match="reaches the model's site 'x' without a slope"):
        objective.loss_and_grads(model, guide)


@pytest.mark.parametrize("downstream", [ScoreFunction(), RELAX(net(1), scale=None)])
def test_refused_upstream_of_a_draw_without_gradient(downstream):
    with pytest.raises(IncompatibleSite, match="'w' downstream pass no gradient"):
        _step(dist.Bernoulli(0.5), REBAR(), downstream=downstream)


@pytest.mark.parametrize(
    "make",
    [
        lambda: REBAR(temperature=0.0),
        lambda: REBAR(temperature=math.inf),
        lambda: REBAR(temperature="hot"),
        lambda: REBAR(scale=math.nan),
        lambda: RELAX(lambda z: z),
        lambda: RELAX(net(1), temperature=-1.0),
        lambda: RELAX(net(1), scale=math.inf),
    ],
)
def test_refused_arguments(make):
    with pytest.raises(InvalidArgument, match=r"RE(BAR|LAX): "):
        make()


def test_declared_unbiased():
    for estimator in (REBAR(), RELAX(net(1)), RELAX(net(1), scale=None)):
        assert estimator.bias is dsvi.estimators.Bias.UNBIASED
