"""Programs with networks: modes, running statistics, parts that are exchanged."""

import pyro
import torch
from pyro import sample
from torch import nn

import pyro_dsvi as dsvi
from tests.compiled.hostile.case import (
    CHANGE,
    Case,
    Hostile,
    X,
    around_zero,
    mean_field,
    observe,
)


def sgd():
    """Adam would make steps of the noise where a normalisation leaves no gradient."""
    return pyro.optim.SGD({"lr": 0.01})


def network(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(1, 4), *layers, nn.Linear(4, 1))


def through(net):
    """A model whose data pass through a network."""

    def model():
        pyro.module("net", net)
        observe(around_zero() + net(X.unsqueeze(-1)).squeeze(-1))

    return model


def dropout():
    """New masks at every step."""
    return Case(through(network(nn.Dropout(0.5))), mean_field())


def dropout_switched_off():
    """And later none."""
    net = network(nn.Dropout(0.5))
    return Case(through(net), mean_field(), lambda step: net.train(step < CHANGE))


def dropout_at_another_rate():
    """The rate is a number in a module of torch's."""
    net = network(nn.Dropout(0.5))

    def before(step):
        net[1].p = 0.5 if step < CHANGE else 0.1

    return Case(through(net), mean_field(), before)


def functional_dropout():
    """The mode is an attribute that the program reads itself."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return nn.functional.dropout(self.inner(x), 0.3, training=self.training)

    net = Net()
    return Case(through(net), mean_field(), lambda step: net.train(step % 4 < 2))


def batch_norm():
    """Running statistics are written at every step, and used from some step on."""
    net = network(nn.BatchNorm1d(4))

    def before(step):
        net.train(step < CHANGE or step == 12)

    return Case(through(net), mean_field(), before, state=lambda: list(net.buffers()), optim=sgd)


def batch_norm_with_a_running_mean():
    """Without a momentum torch averages over all steps, and asks how many there were."""
    net = network(nn.BatchNorm1d(4, momentum=None))
    return Case(through(net), mean_field(), state=lambda: list(net.buffers()), optim=sgd)


def batch_norm_with_another_momentum():
    """The momentum is a number in a module of torch's."""
    net = network(nn.BatchNorm1d(4))

    def before(step):
        net[1].momentum = 0.1 if step < CHANGE else 0.9

    return Case(through(net), mean_field(), before, state=lambda: list(net.buffers()), optim=sgd)


def a_layer_exchanged():
    """One layer gives way to another of the same shape."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            net[1] = nn.ReLU()

    return Case(through(net), mean_field(), before)


def a_network_exchanged():
    """The name stands for another network, with parameters of its own."""
    net = network(nn.Tanh())

    def model():
        pyro.module("net", net, update_module_params=True)
        observe(around_zero() + net(X.unsqueeze(-1)).squeeze(-1))

    def before(step):
        nonlocal net
        if step == CHANGE:
            net = network(nn.Tanh(), seed=1)
            pyro.get_param_store().clear()

    return Case(model, mean_field(), before)


def parameters_frozen():
    """Half of the network is no longer trained."""
    net = network(nn.Tanh())

    def model():
        observe(around_zero() + net(X.unsqueeze(-1)).squeeze(-1))
        for name, p in net.named_parameters():
            if p.requires_grad:
                pyro.param(name, p)

    def before(step):
        if step == CHANGE:
            net[0].requires_grad_(False)

    return Case(model, mean_field(), before, state=lambda: list(net.parameters()))


def parameters_loaded():
    """A checkpoint is loaded into the network."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            net.load_state_dict(network(nn.Tanh(), seed=1).state_dict())

    return Case(through(net), mean_field(), before, state=lambda: list(net.parameters()))


def parameters_that_get_other_memory():
    """Each parameter is set to other memory, by ``.data``."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            for p in net.parameters():
                p.data = 0.5 * p.data

    return Case(through(net), mean_field(), before, state=lambda: list(net.parameters()))


def tied_weights():
    """Two layers share one parameter."""
    net = network(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[3].weight = net[1].weight

    def before(step):
        if step == CHANGE:
            net[3].weight = nn.Parameter(net[1].weight.detach().clone())

    return Case(through(net), mean_field(), before, state=lambda: list(net.parameters()))


def a_hook_on_a_module():
    """A hook doubles what a layer gives, from some step on."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            net[1].register_forward_hook(lambda module, args, output: 2.0 * output)

    return Case(through(net), mean_field(), before)


def a_hook_on_a_parameter():
    """A hook halves a gradient, from some step on."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            net[0].weight.register_hook(lambda gradient: -gradient)

    return Case(through(net), mean_field(), before, state=lambda: list(net.parameters()))


def a_hook_after_accumulation():
    """A parameter is told when its gradient is there."""
    net = network(nn.Tanh())
    told = []
    net[0].weight.register_post_accumulate_grad_hook(lambda p: told.append(p.grad.sum().item()))
    return Case(through(net), mean_field(), state=lambda: [len(told), *told[-1:]])


def a_forward_put_in_place():
    """The network's ``forward`` is another function from some step on."""
    net = network(nn.Tanh())

    def before(step):
        if step == CHANGE:
            inner = type(net).forward
            net.forward = lambda x: 3.0 * inner(net, x)

    return Case(through(net), mean_field(), before)


def weights_under_a_parametrization():
    """Spectral norm iterates in buffers at every step."""
    net = network()
    torch.nn.utils.parametrizations.spectral_norm(net[1])
    return Case(through(net), mean_field(), state=lambda: list(net.buffers()), optim=sgd)


class Sampled(pyro.nn.PyroModule):
    """A network with a sampled weight, whose prior is read from attributes."""

    def __init__(self):
        super().__init__()
        self.width = 1.0
        self.shift = pyro.nn.PyroParam(torch.tensor(0.1))
        self.weight = pyro.nn.PyroSample(
            lambda self: pyro.distributions.Normal(torch.zeros(()), self.width)
        )

    def forward(self):
        observe(self.weight * X + self.shift)


def a_pyro_module():
    """The prior's width is an attribute of a ``PyroModule``."""
    model = Sampled()

    def before(step):
        model.width = 1.0 if step < CHANGE else 0.1

    return Case(model, mean_field("weight"), before)


def moving_averages():
    """Baselines whose state moves at every step, and scales what is sent back."""
    average = dsvi.MovingAverage(decay=0.8)
    return scored(average, lambda baseline: list(baseline.state_dict().values()))


def a_neural_baseline():
    """A baseline with parameters of its own."""
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    return scored(dsvi.Neural(net, lambda *_: torch.ones(1)), lambda _: list(net.parameters()))


def an_optimal_scale():
    """A baseline over a baseline."""
    baseline = dsvi.OptimalScale(dsvi.MovingAverage())
    return scored(baseline, lambda baseline: list(baseline.state_dict().values()))


def scored(baseline, state):
    from pyro.distributions import Bernoulli, Normal

    def model():
        with pyro.plate("bits", 5):
            b = sample("b", Bernoulli(torch.tensor(0.3)))
            sample("y", Normal(2.0 * b, 1.0), obs=X[:5])

    def guide():
        logits = pyro.param("logits", lambda: torch.zeros(5))
        with pyro.plate("bits", 5):
            sample("b", Bernoulli(logits=logits))

    def loss(**options):
        return dsvi.ScoreFunctionELBO(baseline, **options)

    return Case(model, guide, loss=loss)


PROGRAMS = [
    Hostile(dropout, tame=True),
    Hostile(dropout_switched_off),
    Hostile(dropout_at_another_rate),
    Hostile(functional_dropout),
    Hostile(batch_norm),
    Hostile(batch_norm_with_a_running_mean, "read in Python"),
    Hostile(batch_norm_with_another_momentum),
    Hostile(a_layer_exchanged),
    Hostile(a_network_exchanged),
    Hostile(parameters_frozen),
    Hostile(parameters_loaded, tame=True),
    Hostile(parameters_that_get_other_memory, tame=True, free=True),
    Hostile(tied_weights),
    Hostile(a_hook_on_a_module),
    Hostile(a_hook_on_a_parameter, free=True),
    Hostile(a_hook_after_accumulation, free=True),
    Hostile(a_forward_put_in_place),
    Hostile(weights_under_a_parametrization, tame=True),
    Hostile(a_pyro_module),
    Hostile(moving_averages, tame=True),
    Hostile(a_neural_baseline, tame=True),
    Hostile(an_optimal_scale, tame=True),
]
