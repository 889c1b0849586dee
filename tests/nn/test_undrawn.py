"""Networks whose weights are left undrawn, and whole steps that are compiled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_dsvi as dsvi
from pyro_dsvi.distributions import ARD, LogUniform, exact
from pyro_dsvi.errors import UncontrolledNoiseWarning

X = torch.linspace(-1, 1, 24).reshape(6, 4)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Classifier:
    """A network with sparse weights and ordinary biases, its model and its guide."""

    def __init__(self, alpha: str = "weight", prior=None, net=None) -> None:
        net = net or nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        self.network = dsvi.nn.bayesianize(net, prior or LogUniform(), "*.weight")
        init = dsvi.nn.init_to_network(self.network)
        self.guide = dsvi.guides.AutoVariationalDropout(
            self.model, alpha=alpha, init_loc_fn=init, init_scale=0.1
        )

    def model(self, x, y) -> None:
        logits = self.network(x)
        with pyro.plate("data", 60, subsample=torch.arange(6)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def divergence(self) -> float:
        return sum(exact((-x).exp()).sum().item() for x in self.guide.log_alpha().values())


def gradients(objective, model, guide, parameters, number: int) -> torch.Tensor:
    rows = []
    for _ in range(number):
        loss = objective.differentiable_loss(model, guide, X, Y)
        found = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows).double()


@pytest.mark.parametrize(("alpha", "particles"), [("weight", 2), ("neuron", 1)])
def test_undrawn_weights_give_the_same_mean_gradient(alpha, particles):
    problem = Classifier(alpha)
    problem.guide(X, Y)
    parameters = [*problem.guide.parameters(), *problem.network.parameters()]
    local = dsvi.handlers.local_reparameterization(problem.guide)
    options = {"num_particles": particles, "vectorize_particles": True, "analytic_kl": True}
    plain, undrawn = (
        gradients(dsvi.PathwiseELBO(**options), problem.model, guide, parameters, 120)
        for guide in (problem.guide, local)
    )
    error = (plain.var(0) / len(plain) + undrawn.var(0) / len(undrawn)).sqrt()
    z = (plain.mean(0) - undrawn.mean(0)) / error.clamp_min(1e-12)
    assert z.abs().max() < 4.2  # of some fifty numbers


def test_the_divergence_of_undrawn_weights_is_exact():
    problem = Classifier()
    problem.guide(X, Y)
    local = dsvi.handlers.local_reparameterization(problem.guide)
    objective = dsvi.PathwiseELBO(analytic_kl=True)

    def blind(x, y):  # the likelihood is silent
        with pyro.poutine.mask(mask=torch.tensor(False)):
            logits = problem.network.net(x)
        problem.network(x)
        return logits

    assert objective.loss(blind, local, X, Y) == pytest.approx(problem.divergence(), rel=1e-5)


def test_ard_works_where_no_density_is_asked_for():
    problem = Classifier(prior=ARD())
    optim = pyro.optim.Adam({"lr": 0.01})
    elbo = dsvi.PathwiseELBO(analytic_kl=True)
    svi = pyro.infer.SVI(problem.model, problem.guide, optim, elbo)
    assert svi.step(X, Y) > 0
    with pytest.raises(dsvi.errors.IncompatibleSite, match=r"'0.weight'.*analytic_kl=True"):
        dsvi.PathwiseELBO().loss(problem.model, problem.guide, X, Y)


class Attention(nn.Module):
    """Layers without a rule of their own, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, words):
        x = self.embedding(words)
        return self.out(self.norm(self.attention(x, x, x)[0]))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("undrawn", [False, True])
def test_a_fit_is_warmed_up_pruned_and_compiled(undrawn, compiled):
    """No step may warn that it was not compiled."""
    problem = Classifier()
    ramp = dsvi.handlers.warm_up(4)
    guide = ramp(problem.guide)
    if undrawn:
        guide = dsvi.handlers.local_reparameterization(guide)
    optim, elbo = pyro.optim.Adam({"lr": 0.05}), dsvi.PathwiseELBO(analytic_kl=True)
    if compiled:
        elbo.compilation = dsvi.Compilation(backend="recorded")
        svi = dsvi.CompiledSVI(ramp(problem.model), guide, optim, elbo)
    else:
        svi = pyro.infer.SVI(ramp(problem.model), guide, optim, elbo)
    losses, before = [], problem.network.state_dict()["net.0.bias"].clone()
    for _ in range(8):
        losses.append(svi.step(X, Y))
        ramp.advance()
    assert losses[-1] > problem.divergence() * 0.5
    assert not torch.equal(before, problem.network.state_dict()["net.0.bias"])
    assert dsvi.nn.prune(problem.network, problem.guide).compression >= 1


def test_layers_without_a_rule_and_tied_weights_are_drawn_which_is_said_once():
    network = dsvi.nn.bayesianize(Attention())
    words = torch.tensor([[1, 5, 0], [2, 2, 3]])

    def model():
        logits = network(words)
        with pyro.plate("rows", 2):
            pyro.sample("y", dist.Categorical(logits=logits).to_event(1), obs=words)

    init = dsvi.nn.init_to_network(network)
    guide = dsvi.guides.AutoVariationalDropout(model, init_loc_fn=init, init_scale=0.1)
    local = dsvi.handlers.local_reparameterization(guide)
    objective = dsvi.PathwiseELBO(analytic_kl=True)
    with pytest.warns(UncontrolledNoiseWarning, match=r"'embedding.weight': several layers"):
        objective.loss(model, local)
    objective.differentiable_loss(model, local).backward()  # a second warning would be an error
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
