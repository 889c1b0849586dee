"""Nested bounds, by every joint draw: local particles within each draw of what lies outside plates.

The truth is summed by hand over all bits and all nodes of quadrature; the estimate's expectation
over everything that the objective draws.
"""

import itertools
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.messenger import Messenger

import pyro_dsvi as dsvi
from pyro_dsvi.bounds import IWAE, MIWAE, PIWAE, Evidence, Renyi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.passes.record import running
from pyro_dsvi.passes.sample import Sample
from tests import oracles
from tests.oracles import Explore, assert_same_gradient
from tests.scenarios import bernoulli, f64, flip, gauss, normal
from tests.test_subsampled_bounds import both, expected

DATA = f64([0.9, -0.5])
START = {"prior": -0.4, "g": 0.3, "base": -0.2, "link": 0.7, "slope": 1.3}
BOUNDS = [(IWAE(), oracles.renyi(0.0)), (Renyi(0.5), oracles.renyi(0.5))]


def parameters():
    return {name: f64(value).requires_grad_() for name, value in START.items()}


def programs(index=None, size=2):
    """A bit outside, and a bit inside for each datum, whose guide depends on the one outside."""

    def model():
        g = flip("g", pyro.param("prior"))
        gauss("y", g, 0.0, obs=f64(0.4))
        with pyro.plate("rows", size, subsample=index) as i:
            z = flip("z", 0.3 + g)
            gauss("x", pyro.param("slope") * z + g, 0.0, obs=DATA[:size][i])

    def guide():
        g = flip("g", pyro.param("g"))
        with pyro.plate("rows", size, subsample=index):
            flip("z", pyro.param("base") + pyro.param("link") * g)

    return model, guide


def of_datum(θ, x, g):
    """Log weights ``[2]`` of a local bit and its log probabilities, given the global one."""
    z = f64([0.0, 1.0])
    log_q = bernoulli(θ["base"] + θ["link"] * g, z)
    log_p = bernoulli(f64(0.3 + g), z) + normal(x, θ["slope"] * z + g, 0.0)
    return log_p - log_q, log_q


def posterior_logit(data):
    """The exact posterior of the bit outside."""
    θ, joint = parameters(), []
    for g in (0.0, 1.0):
        inside = bernoulli(θ["prior"], f64(g)) + normal(f64(0.4), g, 0.0)
        joint.append(inside + sum(sum(of_datum(θ, x, g)).logsumexp(0) for x in data))
    return float((joint[1] - joint[0]).detach())


def truth(by_hand, K, data=DATA, g_logit=None):
    """The nested bound and its gradient, with the guide's logit of g if given."""
    θ = parameters()
    if g_logit is not None:
        θ["g"] = f64(g_logit).requires_grad_()
    total = f64(0.0)
    index = torch.cartesian_prod(*[torch.arange(2)] * K).reshape(-1, K).T
    for g in (0.0, 1.0):
        log_q = bernoulli(θ["g"], f64(g))
        inside = bernoulli(θ["prior"], f64(g)) + normal(f64(0.4), g, 0.0) - log_q
        for x in data:
            log_w, log_z = of_datum(θ, x, g)
            inside = inside + (log_z[index].sum(0).exp() * by_hand(log_w[index])).sum()
        total = total + log_q.exp() * inside
    gradient = torch.autograd.grad(total, list(θ.values()))
    return float(total.detach()), dict(zip(θ, gradient, strict=True))


def log_evidence(data=DATA):
    θ, joint = parameters(), []
    for g in (0.0, 1.0):
        inside = bernoulli(θ["prior"], f64(g)) + normal(f64(0.4), g, 0.0)
        for x in data:
            log_w, log_q = of_datum(θ, x, g)
            inside = inside + (log_w + log_q).logsumexp(0)
        joint.append(inside)
    return float(torch.stack(joint).logsumexp(0).detach())


def explored(objective, model, guide):
    """Expectation of value and gradient over everything that is drawn."""
    pyro.clear_param_store()
    leaves = {name: pyro.param(name, f64(value)) for name, value in START.items()}
    objective.loss(model, guide)
    state = {n: v.clone() for n, v in objective.state_dict().items() if torch.is_tensor(v)}
    assert not state  # what learns would have to be put back
    value, mass = 0.0, 0.0
    gradient = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    paths = [[]]
    while paths:
        path = paths.pop()
        for leaf in leaves.values():
            leaf.grad = None
        with Explore(path) as explore:
            loss = objective.loss_and_grads(model, guide)
        p = float(explore.log_q.exp())
        value, mass = value - p * loss, mass + p
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                gradient[name] -= p * leaf.grad
        for i in range(len(path), len(explore.path)):
            more = range(1, explore.options[i])
            paths += [[*explore.path[:i], other] for other in more]
    assert mass == pytest.approx(1, abs=1e-12)
    return value, {name: g.detach() for name, g in gradient.items()}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize(("bound", "by_hand"), BOUNDS, ids=lambda b: repr(b)[:12])
def test_of_one_global_draw(bound, by_hand, side_by_side, frozen):
    """Both levels by the score function; leave-one-out among the local particles."""
    objective = dsvi.Objective(
        bound, local_particles=2, vectorize_particles=side_by_side, frozen=frozen
    )
    value, gradient = explored(objective, *programs())
    wanted, exact = truth(by_hand, 2)
    assert value == pytest.approx(wanted, abs=1e-10)
    assert_same_gradient(gradient, exact)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_of_two_global_draws(side_by_side, frozen):
    """Leave-one-out at both levels."""
    objective = dsvi.Objective(
        IWAE(),
        num_particles=2,
        local_particles=2,
        vectorize_particles=side_by_side,
        frozen=frozen,
    )
    value, gradient = explored(objective, *programs(size=1))
    wanted, exact = truth(oracles.renyi(0.0), 2, DATA[:1])
    assert value == pytest.approx(wanted, abs=1e-10)
    assert_same_gradient(gradient, exact)


def test_one_local_particle_is_the_elbo():
    objective = dsvi.Objective(IWAE(), local_particles=1)
    value, gradient = explored(objective, *programs())
    wanted, exact = truth(oracles.evidence, 1)
    assert value == pytest.approx(wanted, abs=1e-10)
    assert_same_gradient(gradient, exact)


# -- how tight -------------------------------------------------------------------------------------


def test_it_is_a_bound_that_grows_with_local_particles():
    values = [truth(oracles.renyi(0.0), K)[0] for K in (1, 2, 3, 4)]
    assert values == sorted(values)
    assert values[0] < values[-1] < log_evidence()


def joint(K, data, g_logit=None):
    """The plain joint bound of K particles by hand."""
    θ = parameters()
    logit = θ["g"] if g_logit is None else f64(g_logit)
    log_w, log_q = [], []
    for g, *bits in itertools.product((0.0, 1.0), *[(0, 1)] * len(data)):
        q = bernoulli(logit, f64(g))
        w = bernoulli(θ["prior"], f64(g)) + normal(f64(0.4), g, 0.0) - q
        for x, bit in zip(data, bits, strict=True):
            weights, log_z = of_datum(θ, x, g)
            w, q = w + weights[bit], q + log_z[bit]
        log_w.append(w)
        log_q.append(q)
    log_w, log_q = torch.stack(log_w), torch.stack(log_q)
    index = torch.cartesian_prod(*[torch.arange(len(log_w))] * K).reshape(-1, K).T
    value = log_w[index].logsumexp(0) - math.log(K)
    return float((log_q[index].sum(0).exp() * value).sum().detach())


def test_which_of_the_two_is_tighter():
    """The joint one where the guide is poor outside the plate, the nested one where it is good."""
    data = DATA.repeat(2)[:3]
    poor = joint(2, data), truth(oracles.renyi(0.0), 2, data)[0]
    logit = posterior_logit(data)
    good = joint(2, data, logit), truth(oracles.renyi(0.0), 2, data, logit)[0]
    assert poor[1] < poor[0] < log_evidence(data)
    assert good[0] < good[1] < log_evidence(data)


# -- minibatches -----------------------------------------------------------------------------------


def test_minibatches_estimate_it_without_bias_and_nothing_is_said():
    def make():
        return dsvi.Objective(IWAE(), local_particles=2, vectorize_particles=False)

    (part, said), (whole, _) = (expected(make, both, size) for size in (1, None))
    assert part == pytest.approx(whole, abs=1e-10)
    assert not said


# -- draws that are differentiated -----------------------------------------------------------------


class Nodes(Messenger):
    """Gives a Normal site its noise: one number outside the plate, one for each particle inside."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg):
        record = running()
        if not isinstance(record, Sample) or msg["is_observed"] or msg["name"] not in self.noise:
            return
        q, noise = msg["fn"], self.noise[msg["name"]]
        if noise.dim() and q.batch_shape.numel() == 1:  # particles go one by one
            noise = noise[record.particle]
        if noise.dim():
            noise = noise.reshape(-1, *[1] * (len(q.batch_shape) - 1))
        msg["value"] = q.loc + q.scale * noise.expand(q.batch_shape)
        msg["done"] = True


SMOOTH = {"mean": 0.3, "log_scale": -0.7, "local": 0.2, "follow": 0.6, "spread": -0.5, "slope": 0.9}


def smooth_model():
    g = gauss("g", 0.0, 0.0)
    with pyro.plate("rows", 1):
        z = gauss("z", g, 0.0)
        gauss("x", pyro.param("slope") * z, 0.2, obs=f64(0.8))


def smooth_guide():
    g = gauss("g", pyro.param("mean"), pyro.param("log_scale"))
    with pyro.plate("rows", 1):
        gauss("z", pyro.param("local") + pyro.param("follow") * g, pyro.param("spread"))


def smooth_truth(by_hand, K, nodes):
    θ = {name: f64(value).requires_grad_() for name, value in SMOOTH.items()}
    noise, weight = quadrature(nodes)
    index = torch.cartesian_prod(*[torch.arange(nodes)] * (1 + K))
    weight = weight[index].prod(-1)
    g = θ["mean"] + θ["log_scale"].exp() * noise[index[:, 0]]
    loc = θ["local"] + θ["follow"] * g
    z = loc + θ["spread"].exp() * noise[index[:, 1:]].T
    log_w = normal(z, g, 0.0) + normal(0.8, θ["slope"] * z, 0.2) - normal(z, loc, θ["spread"])
    inside = normal(g, 0.0, 0.0) - normal(g, θ["mean"], θ["log_scale"]) + by_hand(log_w)
    total = (weight * inside).sum()
    return dict(zip(θ, torch.autograd.grad(total, list(θ.values())), strict=True))


def quadrature(nodes):
    noise, weight = (f64(x.tolist()) for x in np.polynomial.hermite_e.hermegauss(nodes))
    return noise, weight / math.sqrt(2 * math.pi)


def smooth_expectation(objective, K, nodes):
    pyro.clear_param_store()
    leaves = {name: pyro.param(name, f64(value)) for name, value in SMOOTH.items()}
    noise, weight = quadrature(nodes)
    gradient = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for first in range(nodes):
        for rest in itertools.combinations_with_replacement(range(nodes), K):
            for leaf in leaves.values():
                leaf.grad = None
            with Nodes({"g": noise[first], "z": noise[list(rest)]}):
                objective.loss_and_grads(smooth_model, smooth_guide)
            orders = len(set(itertools.permutations(rest)))  # local particles are exchangeable
            for name, leaf in leaves.items():
                gradient[name] -= orders * weight[[first, *rest]].prod() * leaf.grad
    return {name: g.detach() for name, g in gradient.items()}


@pytest.mark.parametrize("side_by_side", [True, False])
def test_pathwise_at_both_levels(side_by_side):
    """The same nodes on both sides: equal at any number of them."""
    objective = dsvi.IWAE(1, local_particles=2, vectorize_particles=side_by_side)
    found = smooth_expectation(objective, 2, 3)
    assert_same_gradient(found, smooth_truth(oracles.renyi(0.0), 2, 3))


MIXED = {"g": dsvi.ScoreFunction()}, {"z": dsvi.ScoreFunction(dsvi.LeaveOneOut())}


@pytest.mark.parametrize("estimators", [{}, *MIXED], ids=["pathwise", "score g", "score z"])
def test_frozen_at_both_levels(estimators):
    """What takes an integration by parts holds up to the quadrature's error, which is measured."""
    nodes = 8
    objective = dsvi.DReG(1, local_particles=2, vectorize_particles=True, estimators=estimators)
    found = smooth_expectation(objective, 2, nodes)
    exact = smooth_truth(oracles.renyi(0.0), 2, 40)
    assert_same_gradient(found, exact, tolerance=5e-4)


def test_a_frozen_live_mix_would_be_seen():
    """The tolerance above is far below what the local densities' gradient amounts to."""
    live = smooth_truth(oracles.renyi(0.0), 2, 40)
    elbo = smooth_truth(oracles.evidence, 2, 40)
    assert max(float((live[n] - elbo[n]).abs()) for n in live) > 0.02


# -- what is refused -------------------------------------------------------------------------------


def test_what_has_no_local_latent():
    model, guide = (lambda: gauss("g", 0.0, 0.0)), (lambda: gauss("g", 0.1, 0.0))
    with pytest.raises(IncompatibleSite, match=r"site 'g': local_particles are for latents inside"):
        dsvi.IWAE(1, local_particles=3).loss(model, guide)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_global_latent_drawn_given_a_local_one(side_by_side):
    def model():
        g = gauss("g", 0.0, 0.0)
        with pyro.plate("rows", 2):
            gauss("z", g, 0.0)

    def guide():
        with pyro.plate("rows", 2):
            z = gauss("z", 0.0, 0.0)
        gauss("g", z.sum(-1, keepdim=True) if side_by_side else z.sum(), 0.0)

    objective = dsvi.IWAE(1, local_particles=3, vectorize_particles=side_by_side)
    with pytest.raises(IncompatibleSite, match=r"site 'g': it lies outside.*draw it first"):
        objective.loss(model, guide)


def test_estimators_that_ask():
    objective = dsvi.IWAE(1, local_particles=3, estimators={"z": dsvi.DisARM()})
    pyro.clear_param_store()
    for name, value in START.items():
        pyro.param(name, f64(value))
    with pytest.raises(IncompatibleSite, match=r"site 'z': DisARM asks.*local_particles"):
        objective.loss_and_grads(*programs())


def test_leave_one_out_needs_two_of_the_sites_own_particles():
    for name, value in START.items():
        pyro.param(name, f64(value))
    objective = dsvi.IWAE(
        1, local_particles=3, estimators={"g": dsvi.ScoreFunction(dsvi.LeaveOneOut())}
    )
    with pytest.raises(IncompatibleSite, match=r"site 'g'.*at least 2 particles"):
        objective.loss_and_grads(*programs())


@pytest.mark.parametrize("local_particles", [0, 1.5, True])
def test_local_particles_are_a_whole_number(local_particles):
    with pytest.raises(InvalidArgument, match="local_particles must be None or a whole number"):
        dsvi.IWAE(1, local_particles=local_particles)


def test_combinations_that_cannot_work():
    with pytest.raises(InvalidArgument, match="Evidence, which is a plain mean"):
        dsvi.Objective(Evidence(), local_particles=2)
    with pytest.raises(InvalidArgument, match="leave one of the two out"):
        dsvi.IWAE(4, local_particles=2, chunk=2)
    with pytest.raises(InvalidArgument, match="guide follows MIWAE"):
        dsvi.Objective(PIWAE(2, 3), local_particles=6)
    with pytest.raises(InvalidArgument, match="pass local_particles=6"):
        dsvi.Objective(MIWAE(2, 3), local_particles=4)


def test_it_is_described(capsys):
    for name, value in START.items():
        pyro.param(name, f64(value))
    dsvi.IWAE(1, local_particles=3).describe(*programs())
    printed = capsys.readouterr().out
    assert "particles: 1 with 3 local ones each" in printed
    assert printed.count("LeaveOneOut") == 1


def test_a_global_latent_merges_no_plate():
    for name, value in START.items():
        pyro.param(name, f64(value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dsvi.IWAE(2, local_particles=3).loss_and_grads(*programs())
