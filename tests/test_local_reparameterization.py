"""The handlers of undrawn weights under every objective, guide and form in which they serve."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import (
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroSample
from torch.nn import functional as F

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.lazy import noise
from tests.lazy.test_layers import normal

local, flipout = dsvi.handlers.local_reparameterization, dsvi.handlers.flipout
X, Y = normal(6, 3), normal(6)
SHAPES = {"w": (4, 3), "b": (4,), "v": (1, 4)}
MEANS = {name: normal(*shape) for name, shape in SHAPES.items()}


def prior(name):
    shape = SHAPES[name]
    return dist.Normal(torch.zeros(shape, dtype=torch.float64), 1.0).to_event(len(shape))


def model(x, y):
    w, b, v = (pyro.sample(name, prior(name)) for name in SHAPES)
    hidden = torch.tanh(x @ w.mT + b.unsqueeze(-2))
    mean = (hidden @ v.mT).squeeze(-1)
    mean = mean.squeeze(-2) if mean.dim() > 2 else mean
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def guide(x, y):
    for name, mean in MEANS.items():
        loc = pyro.param(f"{name} loc", lambda mean=mean: mean.clone())
        scale = pyro.param(
            f"{name} scale",
            lambda mean=mean: torch.full_like(mean, 0.2),
            constraint=dist.constraints.positive,
        )
        pyro.sample(name, dist.Normal(loc, scale).to_event(mean.dim()))


@pytest.fixture
def shapes(monkeypatch):
    """Shapes of the noise that undrawn tensors ask for."""
    asked, normal_noise = [], noise.standard_normal

    def spy(shape, like):
        asked.append(tuple(shape))
        return normal_noise(shape, like)

    monkeypatch.setattr(noise, "standard_normal", spy)
    return asked


def gradients(loss, model, guide, *args):
    """Of all parameters, after one evaluation."""
    loss.loss_and_grads(model, guide, *args)
    return [p.unconstrained().grad for p in map(pyro.param, pyro.get_param_store())]


OUTPUTS = [(6, 4), (6, 4), (6, 1)]
WEIGHTS = [(4, 3), (4,), (1, 4)]
LOSSES = {
    "ours": (dsvi.PathwiseELBO, WEIGHTS),
    "ours, closed form": (lambda: dsvi.PathwiseELBO(analytic_kl=True), []),
    "Trace_ELBO": (Trace_ELBO, WEIGHTS),
    "TraceMeanField_ELBO": (TraceMeanField_ELBO, WEIGHTS),
    "TraceGraph_ELBO": (TraceGraph_ELBO, WEIGHTS),
}


@pytest.mark.parametrize("form", ["around the step", "around the programs"])
@pytest.mark.parametrize("name", LOSSES)
def test_outputs_are_drawn_and_weights_at_most_once_for_their_densities(name, form, shapes):
    make, weights = LOSSES[name]
    optim = pyro.optim.SGD({"lr": 1e-3})
    if form == "around the step":
        svi = SVI(model, guide, optim, make())
        with local():
            svi.step(X, Y)
    else:
        svi = SVI(*local(model, guide), optim, make())
        svi.step(X, Y)
    asked = shapes[:]
    # The guide sets up its parameters in the first run, which is followed with less knowledge.
    assert asked[:3] == OUTPUTS
    shapes.clear()
    with local() if form == "around the step" else pyro.poutine.scale(scale=1.0):
        svi.step(X, Y)
    assert sorted(shapes) == sorted(OUTPUTS + weights)


def test_a_guide_alone_serves_our_objectives(shapes):
    loss = dsvi.PathwiseELBO(analytic_kl=True)
    for _ in range(2):
        shapes.clear()
        assert all(g is not None for g in gradients(loss, model, local(guide), X, Y))
    assert shapes == OUTPUTS


def test_a_guide_alone_is_refused_by_pyros_objectives():
    # Pyro hands the error on in one of its own, which names the site as well.
    with pytest.raises(ValueError, match="site 'w': local_reparameterization"):
        Trace_ELBO().loss_and_grads(model, local(guide), X, Y)


def divergence():
    standard = dist.Normal(0.0, 1.0)
    laws = (dist.Normal(pyro.param(f"{n} loc"), pyro.param(f"{n} scale")) for n in SHAPES)
    return sum(torch.distributions.kl_divergence(law, standard).sum() for law in laws)


def test_the_closed_form_looks_at_no_value(monkeypatch):
    """Without noise, the loss is the divergence and the likelihood at the means."""
    monkeypatch.setattr(noise, "standard_normal", lambda shape, like: like.new_zeros(shape))
    with local():
        found = dsvi.PathwiseELBO(analytic_kl=True).loss(model, guide, X, Y)
    seen = pyro.poutine.condition(model, MEANS)
    likelihood = pyro.poutine.trace(seen).get_trace(X, Y).nodes["y"]
    log_p = likelihood["fn"].log_prob(Y).sum()
    assert found == pytest.approx(float((divergence() - log_p).detach()), rel=1e-12)


def linear(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 3, dtype=torch.float64), 2.0).to_event(2))
    with pyro.plate("data", 12, subsample_size=6), pyro.poutine.scale(scale=0.5):
        pyro.sample("y", dist.Normal((x @ w.mT).squeeze(-1), 0.5), obs=y)


def linear_guide(x, y):
    loc = pyro.param("loc", lambda: MEANS["w"][:1].clone())
    scale = pyro.param("scale", lambda: torch.full((1, 3), 0.3, dtype=torch.float64))
    pyro.sample("w", dist.Normal(loc, scale).to_event(2))


@pytest.mark.parametrize("handler", [local, flipout])
@pytest.mark.parametrize("analytic_kl", [True, False])
def test_a_linear_model_has_the_gradient_of_its_bound(handler, analytic_kl, monkeypatch):
    r"""The loss is quadratic in n numbers of noise: 2n points ±√n e_i integrate it exactly."""
    counted = []
    monkeypatch.setattr(noise, "standard_normal", lambda s, x: counted.append(s) or x.new_zeros(s))
    flips = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(noise, "signs", lambda s, x: flips.unsqueeze(-1) * flips[: s[-1]])
    loss = dsvi.PathwiseELBO(analytic_kl=analytic_kl)
    with handler():
        for _ in range(2):
            counted.clear()
            loss.loss_and_grads(linear, linear_guide, X, Y)
    sizes = [torch.Size(s).numel() for s in counted]
    number, total = sum(sizes), 0.0
    points = number**0.5 * torch.eye(number, dtype=torch.float64)
    for point in (*points, *-points):
        parts = list(point.split(sizes))
        monkeypatch.setattr(
            noise, "standard_normal", lambda s, x, parts=parts: parts.pop(0).reshape(s)
        )
        for name in ("loc", "scale"):
            pyro.param(name).grad = None
        with handler():
            loss.loss_and_grads(linear, linear_guide, X, Y)
        total = total + torch.cat([pyro.param(n).grad for n in ("loc", "scale")])
    loc, scale = (pyro.param(n).detach().requires_grad_() for n in ("loc", "scale"))
    misfit = (Y - X @ loc[0]).square() + X.square() @ scale[0].square()
    bound = (
        -(misfit / (2 * 0.25)).sum()
        - torch.distributions.kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 2.0)).sum()
    )
    exact = -torch.cat(torch.autograd.grad(bound, [loc, scale]))
    torch.testing.assert_close(total / (2 * number), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("vectorized", [True, False])
def test_particles(vectorized, shapes):
    loss = dsvi.PathwiseELBO(num_particles=5, vectorize_particles=vectorized, analytic_kl=True)
    for _ in range(2):
        shapes.clear()
        with local():
            loss.loss_and_grads(model, guide, X, Y)
    if vectorized:
        assert shapes == [(5, 1, *shape) for shape in OUTPUTS]
    else:
        assert shapes == 5 * OUTPUTS


def test_pyros_vectorized_particles(shapes):
    loss = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    with local():
        loss.loss_and_grads(model, guide, X, Y)
    assert shapes[:3] == [(5, 1, *shape) for shape in OUTPUTS]


def test_an_autoguide(shapes):
    automatic = AutoNormal(model)
    loss = dsvi.PathwiseELBO(analytic_kl=True)
    automatic(X, Y)
    for _ in range(2):
        shapes.clear()
        with local():
            loss.loss_and_grads(model, automatic, X, Y)
    assert shapes == OUTPUTS
    with local():
        Trace_ELBO().loss_and_grads(model, automatic, X, Y)


def test_a_guide_of_low_rank_gives_all_layers_one_noise_an_example(shapes):
    automatic = AutoLowRankMultivariateNormal(model, rank=2)
    automatic(X, Y)
    with local():
        dsvi.PathwiseELBO().loss_and_grads(model, automatic, X, Y)
    assert shapes.count((2, 6)) == 1
    assert [s for s in shapes if s in OUTPUTS] == OUTPUTS


def test_a_guide_of_full_rank_is_drawn(shapes):
    automatic = AutoMultivariateNormal(model)
    automatic(X, Y)
    with local():
        dsvi.PathwiseELBO().loss_and_grads(model, automatic, X, Y)
    assert shapes == [(20,)]


class Network(PyroModule):
    def __init__(self):
        super().__init__()
        self.layer = PyroModule[torch.nn.Linear](3, 1).double()
        zero, one = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        self.layer.weight = PyroSample(dist.Normal(zero, 1.0).to_event(2))
        self.layer.bias = PyroSample(dist.Normal(0 * one, one).to_event(1))

    def forward(self, x, y):
        mean = self.layer(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def test_a_network_of_pyros_modules(shapes):
    network = Network()
    automatic = AutoNormal(network)
    automatic(X, Y)
    loss = dsvi.PathwiseELBO(analytic_kl=True)
    for _ in range(2):
        shapes.clear()
        with local():
            loss.loss_and_grads(network, automatic, X, Y)
    assert shapes == [(6, 1)]


@pytest.mark.parametrize("name", ["rows", "low rank", "matrix normal"])
def test_other_laws_of_guides(name, shapes):
    eye = torch.eye(3, dtype=torch.float64)

    def structured(x, y):
        zero = pyro.param("zero", lambda: torch.zeros(1, 3, dtype=torch.float64))
        if name == "rows":
            q = dist.MultivariateNormal(zero, scale_tril=eye).to_event(1)
        elif name == "low rank":
            q = dist.LowRankMultivariateNormal(zero, eye[:, :2], eye[0] + 1).to_event(1)
        else:
            q = dsvi.distributions.MatrixNormal(zero, eye[:1, :1], eye)
        pyro.sample("w", q)

    loss = dsvi.PathwiseELBO()
    for _ in range(2):
        shapes.clear()
        with local():
            loss.loss_and_grads(linear, structured, X, Y)
    assert shapes[0] == ((2, 6) if name == "low rank" else (6, 1))
    assert pyro.param("zero").grad.isfinite().all()


@pytest.mark.parametrize("handler", [local, flipout])
def test_compiled_steps_are_the_eager_ones(handler):
    def losses(kind, **options):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        loss = dsvi.PathwiseELBO(num_particles=3, analytic_kl=True, **options)
        svi = kind(*handler(model, guide), pyro.optim.Adam({"lr": 0.01}), loss)
        return [svi.step(X, Y) for _ in range(8)]

    compiled = losses(dsvi.CompiledSVI, compiled=dsvi.Compilation(backend="recorded"))
    assert compiled == pytest.approx(losses(SVI), rel=1e-10)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("form", ["around", "guide"])
def test_predictions_come_from_the_weights_that_are_returned(parallel, form):
    def exact(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(1, 3, dtype=torch.float64), 2.0).to_event(2))
        mean = (x @ w.mT).squeeze(-1)
        mean = mean.squeeze(-2) if mean.dim() > 2 else mean
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 1e-9), obs=y)

    linear_guide(X, None)
    q = local(linear_guide) if form == "guide" else linear_guide
    predictive = Predictive(exact, guide=q, num_samples=4, parallel=parallel)
    with local() if form == "around" else pyro.poutine.scale(scale=1.0):
        found = predictive(X, None)
    w = found["w"].reshape(4, 3)
    torch.testing.assert_close(found["y"].reshape(4, 6), w @ X.mT, rtol=1e-6, atol=1e-6)


def test_sites_in_plates_and_sites_left_out_are_drawn_as_usual(shapes):
    def grouped(x, y):
        with pyro.plate("group", 2):
            offset = pyro.sample("offset", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0))
        w = pyro.sample("w", dist.Normal(offset.new_zeros(3), 1.0).to_event(1))
        if y is not None:
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(x @ w + offset[0], 0.5), obs=y)

    with local():
        dsvi.PathwiseELBO(analytic_kl=True).loss_and_grads(
            grouped, lambda x, y: grouped(x, None), X, Y
        )
    assert (2,) not in shapes
    shapes.clear()
    with local(select=lambda name: name != "w"):
        dsvi.PathwiseELBO(analytic_kl=True).loss_and_grads(
            grouped, lambda x, y: grouped(x, None), X, Y
        )
    assert not shapes


def refused(loss, guide=guide, model=model, match="", handler=local):
    with pytest.raises(IncompatibleSite, match=match), handler():
        loss.loss_and_grads(model, guide, X, Y)


def test_bounds_of_several_samples_are_refused():
    for loss in (
        dsvi.IWAE(num_particles=2),
        dsvi.Renyi(0.5, num_particles=2),
        RenyiELBO(num_particles=2),
        RenyiELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    ):
        name = "RenyiELBO" if isinstance(loss, RenyiELBO) else "this one"
        refused(loss, match=rf"site 'w': .* needs an additive bound, and {name} is not")


def test_other_estimators_are_refused():
    refused(
        dsvi.ScoreFunctionELBO(num_particles=2), match="ScoreFunction wants the site's own draw"
    )
    refused(dsvi.STL(), match="site 'w': .* use frozen=False")

    def detached(x, y):
        for name in SHAPES:
            base = dist.Normal(MEANS[name], 1.0).has_rsample_(False)
            pyro.sample(name, base.to_event(len(SHAPES[name])))

    refused(Trace_ELBO(), detached, match="site 'w': .* no rsample")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["around the step", "around the programs"])
def test_batch_normalisation_is_refused_while_it_trains(training, form):
    norm = torch.nn.BatchNorm1d(4).double().train(training)

    def normalised(x, y):
        w, b, v = (pyro.sample(name, prior(name)) for name in SHAPES)
        hidden = norm(F.linear(norm(torch.cat([x, x[:, :1]], -1))[:, :3], w, b))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(F.linear(hidden.tanh(), v).squeeze(-1), 0.5), obs=y)

    programs, around = (normalised, guide), local()
    if form == "around the programs":
        programs, around = local(*programs), pyro.poutine.scale(scale=1.0)
    loss = dsvi.PathwiseELBO()
    if not training:
        with around:
            loss.loss_and_grads(*programs, X, Y)
        return
    with pytest.raises(IncompatibleSite, match=r"'b': .* batch normalisation in training"), around:
        loss.loss_and_grads(*programs, X, Y)


def test_arguments_are_checked():
    with pytest.raises(InvalidArgument, match="conv must be one of"):
        local(conv="exact")
    with pytest.raises(InvalidArgument, match="example_dims"):
        flipout(example_dims=1.5)
    with pytest.raises(InvalidArgument, match="a guide, or a model and a guide"):
        local(model, guide, guide)
    with pytest.raises(InvalidArgument, match="a guide, or a model and a guide"):
        local("w")
