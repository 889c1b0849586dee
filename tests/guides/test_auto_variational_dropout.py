"""The guide N(mu, alpha mu^2): its parameters, its divergence, its gradients, what it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import kl_divergence

import pyro_dsvi as dsvi
from pyro_dsvi.distributions import LogUniform, exact, kingma, molchanov
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument

SHARINGS = ("weight", "neuron", "layer")


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def dropout(alpha: str, prior=None, **options):
    """A network of five weights, its model without data, and its guide."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    network = dsvi.nn.bayesianize(net, prior or LogUniform())
    init = dsvi.nn.init_to_network(network)
    guide = dsvi.guides.AutoVariationalDropout(network, alpha=alpha, init_loc_fn=init, **options)
    guide(torch.ones(1, 2))
    return net, network, guide


def laws(guide, *args) -> dict[str, dist.Normal]:
    trace = poutine.trace(guide).get_trace(*args)
    return {name: site["fn"].base_dist for name, site in trace.iter_stochastic_nodes()}


@pytest.mark.parametrize("alpha", SHARINGS)
def test_it_starts_at_the_network_with_the_noise_asked_for(alpha):
    net, _, guide = dropout(alpha, init_scale=0.05)
    for name, q in laws(guide, torch.ones(1, 2)).items():
        torch.testing.assert_close(q.loc, net.get_parameter(name))
        groups = {"weight": (), "neuron": 1, "layer": (0, 1)}[alpha]
        square = q.variance.mean(groups) if groups != () else q.variance
        torch.testing.assert_close(square.sqrt(), torch.full_like(square, 0.05))


@pytest.mark.parametrize(
    ("alpha", "different"), [("weight", (4, 2)), ("neuron", (2, 1)), ("layer", (1, 1))]
)
def test_weights_share_what_they_are_said_to_share(alpha, different):
    _, _, guide = dropout(alpha)
    found = guide.log_alpha()
    for (name, q), number in zip(laws(guide, torch.ones(1, 2)).items(), different, strict=True):
        assert found[name].shape == q.loc.shape
        torch.testing.assert_close(found[name], (q.variance / q.loc.square()).log())
        assert len(found[name].unique()) == number


@pytest.mark.parametrize("divergence", [exact, molchanov, kingma])
@pytest.mark.parametrize("alpha", SHARINGS)
def test_the_objective_sums_the_divergence_over_all_weights(alpha, divergence):
    _, network, guide = dropout(alpha, LogUniform(divergence), init_scale=0.3)
    objective = dsvi.PathwiseELBO(analytic_kl=True)
    wanted = sum(divergence((-x).exp()).sum() for x in guide.log_alpha().values())
    found = objective.loss(network, guide, torch.ones(1, 2))
    assert found == pytest.approx(wanted.item(), abs=1e-10)


@pytest.mark.parametrize("alpha", ["neuron", "layer"])
def test_the_prior_does_not_push_means_where_alpha_is_a_parameter(alpha):
    _, network, guide = dropout(alpha)
    dsvi.PathwiseELBO(analytic_kl=True).differentiable_loss(
        network, guide, torch.ones(1, 2)
    ).backward()
    for name, parameter in guide.named_parameters():
        pushed = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert pushed == name.startswith("noise"), name


@pytest.mark.parametrize("alpha", SHARINGS)
def test_the_prior_pushes_alpha_up_by_the_exact_slope(alpha):
    """In log sigma^2 the slope is that in log alpha, mu being held."""
    _, network, guide = dropout(alpha, init_scale=0.3)
    log_alpha = {n: x.clone().requires_grad_() for n, x in guide.log_alpha().items()}
    torch.stack([exact((-x).exp()).sum() for x in log_alpha.values()]).sum().backward()
    dsvi.PathwiseELBO(analytic_kl=True).differentiable_loss(
        network, guide, torch.ones(1, 2)
    ).backward()
    for name, parameter in guide.noise.named_parameters():
        slope = log_alpha[name.removesuffix("_unconstrained")].grad
        torch.testing.assert_close(parameter.grad, slope.sum_to_size(parameter.shape))
        assert (parameter.grad < 0).all()


def test_ard_is_its_neighbour():
    _, _, guide = dropout("weight", LogUniform(), init_scale=0.3)
    for q in laws(guide, torch.ones(1, 2)).values():
        near = kl_divergence(q, dsvi.distributions.ARD())
        far = kl_divergence(q, LogUniform())
        # both vanish together and both grow as half the logarithm of 1/alpha
        assert (near > 0).all()
        assert ((far - near).abs() < 0.5 * (0.5772156649015329 + math.log(2))).all()


def test_particles_side_by_side_have_the_same_divergence():
    _, network, guide = dropout("neuron", init_scale=0.3)
    one, many = (dsvi.PathwiseELBO(analytic_kl=True, num_particles=n) for n in (1, 3))
    x = torch.ones(1, 2)
    assert many.loss(network, guide, x) == pytest.approx(one.loss(network, guide, x), abs=1e-10)


@pytest.mark.parametrize("alpha", SHARINGS)
def test_a_dead_weight_gives_finite_gradients(alpha):
    _, network, guide = dropout(alpha)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.startswith("locs"):
                parameter.zero_()
    loss = dsvi.PathwiseELBO(analytic_kl=True).differentiable_loss(network, guide, torch.ones(1, 2))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in guide.parameters())


def test_it_learns_which_inputs_matter():
    """Ten inputs, two of which matter: the others' alpha grows beyond all of theirs."""
    x = torch.randn(200, 10)
    y = 2 * x[:, 3] - x[:, 7] + 0.1 * torch.randn(200)
    net = nn.Linear(10, 1, bias=False)
    network = dsvi.nn.bayesianize(net, LogUniform())

    def model():
        mean = network(x).squeeze(-1)
        with pyro.plate("data", 200):
            pyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    init = dsvi.nn.init_to_network(network)
    guide = dsvi.guides.AutoVariationalDropout(model, init_loc_fn=init, init_scale=0.01)
    elbo, optim = dsvi.PathwiseELBO(analytic_kl=True), pyro.optim.Adam({"lr": 0.05})
    svi = pyro.infer.SVI(model, guide, optim, elbo)
    for _ in range(300):
        svi.step()
    pruned = dsvi.nn.prune(network, guide, threshold=-3.0)
    assert pruned.net.weight[0].nonzero().flatten().tolist() == [3, 7]
    torch.testing.assert_close(
        pruned.net.weight[0, [3, 7]], torch.tensor([2.0, -1.0]), atol=0.05, rtol=0
    )


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"alpha": "unit"}, {"init_scale": 0.0}])
def test_arguments_that_cannot_work(options):
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        dsvi.guides.AutoVariationalDropout(lambda: None, **options)


def test_a_start_drawn_from_an_improper_prior_is_refused():
    network = dsvi.nn.bayesianize(nn.Linear(2, 1), LogUniform())
    with pytest.raises(IncompatibleSite, match=r"init_loc_fn=dsvi\.nn.init_to_network"):
        dsvi.guides.AutoVariationalDropout(network)(torch.ones(1, 2))


def test_a_constrained_site_is_refused_by_name():
    def model():
        pyro.sample("noise", dist.LogNormal(0.0, 1.0))

    with pytest.raises(IncompatibleSite, match=r"'noise'.*Gaussian"):
        dsvi.guides.AutoVariationalDropout(model)()


def test_a_site_in_a_plate_is_refused_by_name():
    def model():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(IncompatibleSite, match=r"'z'.*plate 'data'"):
        dsvi.guides.AutoVariationalDropout(model)()


def test_a_guide_that_never_ran_knows_nothing():
    guide = dsvi.guides.AutoVariationalDropout(lambda: None)
    for ask in (guide.log_alpha, guide.median):
        with pytest.raises(InvalidArgument, match="never run"):
            ask()
