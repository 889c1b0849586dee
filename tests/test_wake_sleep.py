"""Reweighted wake-sleep against every outcome of both phases, and how a dream reaches a guide."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, NotCompiledWarning
from tests.compiled.fitting import RECORDED
from tests.oracles import Explore
from tests.scenarios import f64

START = {"prior": 0.3, "slope": 1.4, "eta": -0.2, "gain": 0.9}
DATA = f64([1.0, 0.0])


def log_bernoulli(logit: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 1, logsigmoid(logit), logsigmoid(-logit))


def likelihood(b: Tensor) -> Tensor:
    return pyro.param("slope") * b - 0.3


def encode(x: Tensor) -> Tensor:
    return pyro.param("eta") + pyro.param("gain") * x


def bit(name: str, logit: Tensor, **options) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=logit), **options)


# The same program, to which the data come in several ways.


def plain_model(x):
    with pyro.plate("data", len(x)):
        bit("x", likelihood(bit("b", pyro.param("prior"))), obs=x)


def plain_guide(x):
    with pyro.plate("data", len(x)):
        bit("b", encode(x))


def named_model(*, observations):
    plain_model(observations["x"])


def named_guide(*, observations):
    plain_guide(observations["x"])


def image_model(x):
    plain_model(x.reshape(-1))


def image_guide(x):
    plain_guide(x.reshape(-1))


def rows_model(x):
    with pyro.plate("data", 5, subsample=torch.tensor([3, 1])) as i:
        bit("x", likelihood(bit("b", pyro.param("prior"))), obs=x[i])


def rows_guide(x):
    with pyro.plate("data", 5, subsample=torch.tensor([3, 1])) as i:
        bit("b", encode(x[i]))


def doubled_model(x):
    plain_model(x / 2)


def doubled_guide(x):
    plain_guide(x / 2)


ROWS = f64([0.0, 0.0, 0.0, 1.0, 1.0])
WAYS = {
    "argument": (plain_model, plain_guide, (DATA,), {}, None, 1.0),
    "by name": (named_model, named_guide, (), {"observations": {"x": DATA}}, None, 1.0),
    "reshaped": (image_model, image_guide, (DATA.reshape(1, 2),), {}, None, 1.0),
    "minibatch": (rows_model, rows_guide, (ROWS,), {}, None, 2.5),
    "by hand": (
        doubled_model,
        doubled_guide,
        (2 * DATA,),
        {},
        lambda dreamt, x: (2 * dreamt["x"].reshape(x.shape),),
        1.0,
    ),
}


def by_hand(sleep: float, scale: float, num_particles: int = 2):
    """The bound and the expected update, from sums over both data's outcomes."""
    θ = {name: f64(value).requires_grad_() for name, value in START.items()}
    bits = f64([0.0, 1.0])
    value, update = f64(0.0), f64(0.0)
    joint = torch.cartesian_prod(*[bits] * num_particles).T
    for x in DATA:
        log_q = log_bernoulli(θ["eta"] + θ["gain"] * x, joint)
        log_p = log_bernoulli(θ["prior"], joint)
        log_p = log_p + log_bernoulli(θ["slope"] * joint - 0.3, x)
        w = (log_p - log_q).exp().detach()
        probability = log_q.detach().exp().prod(0)
        value = value + (probability * w.mean(0).log()).sum()
        update = update + (probability * (w / w.sum(0) * log_p).sum(0)).sum()
        update = update + (1 - sleep) * (probability * (w / w.sum(0) * log_q).sum(0)).sum()
        for b, dreamt in itertools.product(bits, bits):
            log_p = log_bernoulli(θ["prior"], b) + log_bernoulli(θ["slope"] * b - 0.3, dreamt)
            log_q = log_bernoulli(θ["eta"] + θ["gain"] * dreamt, b)
            update = update + sleep * log_p.detach().exp() * log_q
    gradient = torch.autograd.grad(scale * update, list(θ.values()))
    return scale * value, dict(zip(θ, gradient, strict=True))


def every_outcome(objective, model, guide, args, kwargs):
    """Expected bound and update over all that the objective draws."""
    pyro.clear_param_store()
    leaves = {name: pyro.param(name, f64(value)) for name, value in START.items()}
    value, total, paths = 0.0, f64(0.0), [[]]
    update = {name: f64(0.0) for name in leaves}
    while paths:
        path = paths.pop()
        for leaf in leaves.values():
            leaf.grad = None
        with Explore(path) as explore:
            loss = objective.loss_and_grads(model, guide, *args, **kwargs)
        p = explore.log_q.exp()
        value, total = value - p * loss, total + p
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                update[name] = update[name] - p * leaf.grad
        for i in range(len(path), len(explore.path)):
            paths += [[*explore.path[:i], other] for other in range(1, explore.options[i])]
    torch.testing.assert_close(total, f64(1.0))
    return value, update


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sleep", [0.0, 0.4])
def test_every_outcome_of_both_phases(way, sleep):
    model, guide, args, kwargs, dream, scale = WAYS[way]
    objective = dsvi.RWS(2, sleep=sleep, dream=dream, vectorize_particles=True, max_plate_nesting=1)
    # counts the plates, and sets itself up, before the draws are forced
    pyro.clear_param_store()
    for name, start in START.items():
        pyro.param(name, f64(start))
    objective.loss_and_grads(model, guide, *args, **kwargs)
    value, update = every_outcome(objective, model, guide, args, kwargs)
    expected, gradient = by_hand(sleep, scale)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    for name in START:
        torch.testing.assert_close(update[name], gradient[name], rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("num_dreams", [1, 2])
def test_sleep_alone_with_one_particle(num_dreams):
    """The original wake-sleep: the guide learns from dreams alone."""
    objective = dsvi.RWS(1, sleep=1.0, num_dreams=num_dreams)
    x = DATA[:1]
    pyro.clear_param_store()
    _, update = every_outcome(objective, plain_model, plain_guide, (x,), {})
    θ = {name: f64(value).requires_grad_() for name, value in START.items()}
    total = f64(0.0)
    for b, dreamt in itertools.product(f64([0.0, 1.0]), f64([0.0, 1.0])):
        log_p = log_bernoulli(θ["prior"], b) + log_bernoulli(θ["slope"] * b - 0.3, dreamt)
        log_q = log_bernoulli(θ["eta"] + θ["gain"] * dreamt, b)
        total = total + log_p.detach().exp() * log_q
    for name in ("eta", "gain"):
        (expected,) = torch.autograd.grad(total, θ[name], retain_graph=True)
        torch.testing.assert_close(update[name], expected, rtol=0, atol=1e-12)


# -- refusals ------------------------------------------------------------------------------------


def start() -> None:
    for name, value in START.items():
        pyro.param(name, f64(value))


def test_data_that_no_argument_holds():
    start()
    with pytest.raises(IncompatibleSite, match=r"'x': .*not among the programs' arguments.*dream="):
        dsvi.RWS(2, sleep=0.5).loss_and_grads(
            lambda: plain_model(DATA.clone()), lambda: plain_guide(DATA)
        )


def test_a_factor_has_nothing_to_dream_of():
    def model(x):
        plain_model(x)
        pyro.factor("f", pyro.param("prior"))

    start()
    with pytest.raises(IncompatibleSite, match=r"'f': a factor.*sleep=0"):
        dsvi.RWS(2, sleep=0.5).loss_and_grads(model, plain_guide, DATA)


def test_a_draw_of_the_guides_own():
    def guide(x):
        bit("u", pyro.param("eta"), infer={"is_auxiliary": True})
        plain_guide(x)

    start()
    objective = dsvi.RWS(2, sleep=0.5, vectorize_particles=False)
    with pytest.raises(IncompatibleSite, match=r"'u': the guide draws it.*sleep=0"):
        objective.loss_and_grads(plain_model, guide, DATA)


def test_a_dream_that_gives_no_tuple():
    start()
    objective = dsvi.RWS(2, sleep=0.5, dream=lambda dreamt, x: dreamt["x"])
    with pytest.raises(InvalidArgument, match=r"dream: .*tuple, got Tensor"):
        objective.loss_and_grads(plain_model, plain_guide, DATA)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_particles": 1}, "one particle"),
        ({"num_particles": 2, "sleep": 1.5}, r"sleep must be in \[0, 1\]"),
        ({"num_particles": 2, "num_dreams": 0}, "num_dreams must be"),
        ({"num_particles": 4, "sleep": 0.5, "chunk": 2}, "chunk=2 with sleep=0.5"),
    ],
)
def test_arguments_that_cannot_work(options, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        dsvi.RWS(**options)


def test_looking_for_the_rows_of_a_minibatch_is_not_compiled():
    """Which argument holds them is read in Python; a ``dream`` of the user's spares the look."""
    start()
    objective = dsvi.RWS(2, sleep=0.5, compiled=RECORDED)

    def steps():
        return [objective.loss_and_grads(rows_model, rows_guide, ROWS) for _ in range(6)]

    with pytest.warns(NotCompiledWarning, match="value is read in Python"):
        steps()


def test_nothing_is_dreamt_where_nothing_is_learnt():
    start()
    objective = dsvi.RWS(2, sleep=0.5)
    assert objective.loss(lambda: plain_model(DATA), lambda: plain_guide(DATA)) > 0
