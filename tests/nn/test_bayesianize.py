"""What becomes a site, under which name, with which prior; the forward is the net's own."""

import copy
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_dsvi as dsvi
from pyro_dsvi.distributions import Horseshoe, LogUniform, SpikeAndSlab
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def latents(program, *args) -> dict[str, torch.Tensor]:
    trace = poutine.trace(program).get_trace(*args)
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}


X = torch.linspace(-1, 1, 8).reshape(2, 4)


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("*", "0.weight 0.bias 2.weight 2.bias"),
        ("*.weight", "0.weight 2.weight"),
        ("2.*", "2.weight 2.bias"),
        (nn.Linear, "0.weight 0.bias 2.weight 2.bias"),
        (lambda w: w.tensor.dim() == 1 and w.layer.in_features == 5, "2.bias"),
        (lambda w: w.role == "bias", "0.bias 2.bias"),
        (["0.bias", "2.weight"], "0.bias 2.weight"),
    ],
)
def test_parameters_are_selected_and_keep_their_names(select, names):
    network = dsvi.nn.bayesianize(mlp(), select=select)
    found = latents(network, X)
    assert list(found) == names.split()
    assert network.site("0.weight") == "0.weight"


def test_the_output_is_that_of_the_network_with_these_weights():
    net = mlp()
    network = dsvi.nn.bayesianize(net, select="*.weight")
    trace = poutine.trace(network).get_trace(X)
    with torch.no_grad():
        net[0].weight.copy_(trace.nodes["0.weight"]["value"])
        net[2].weight.copy_(trace.nodes["2.weight"]["value"])
        torch.testing.assert_close(trace.nodes["_RETURN"]["value"], net(X), rtol=0, atol=0)


def test_the_network_itself_is_left_alone():
    net = mlp()
    before = copy.deepcopy(net.state_dict())
    network = dsvi.nn.bayesianize(net)
    network(X)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    own = {p.data_ptr() for p in net.parameters()}
    assert not own & {t.data_ptr() for t in network.state_dict().values()}


def test_parameters_that_are_not_selected_are_trained_and_others_are_not():
    network = dsvi.nn.bayesianize(mlp(), select="*.weight")
    trace = poutine.trace(network, param_only=True).get_trace(X)
    assert list(trace.nodes) == ["0.bias", "2.bias"]
    start = copy.deepcopy(network.state_dict())
    guide = AutoNormal(network_model(network), init_scale=0.01)
    svi = pyro.infer.SVI(
        network_model(network), guide, pyro.optim.Adam({"lr": 0.1}), dsvi.PathwiseELBO()
    )
    svi.step(X)
    changed = [k for k, v in network.state_dict().items() if not torch.equal(v, start[k])]
    assert changed == ["net.0.bias", "net.2.bias"]


def network_model(network):
    def model(x):
        out = network(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(out, 1.0).to_event(1), obs=torch.ones(len(x), 3))

    return model


def test_a_param_store_that_was_loaded_rules(tmp_path):
    network = dsvi.nn.bayesianize(mlp(), select="*.weight")
    network(X)
    store = pyro.get_param_store()
    assert store["0.bias"] is network.net[0].bias
    with torch.no_grad():
        store["0.bias"].fill_(7.0)
    store.save(tmp_path / "store")
    pyro.clear_param_store()
    store.load(tmp_path / "store")
    other = dsvi.nn.bayesianize(mlp(), select="*.weight")
    trace = poutine.trace(other).get_trace(X)
    assert (other.state_dict()["net.0.bias"] == 7).all()
    values = {n: s["value"] for n, s in trace.iter_stochastic_nodes()}
    reference = torch.func.functional_call(other.net, values, (X,))
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], reference)


def test_parameters_may_be_local_to_modules():
    with pyro.settings.context(module_local_params=True):
        network = dsvi.nn.bayesianize(mlp(), select="*.weight")
        trace = poutine.trace(network, param_only=True).get_trace(X)
        assert list(trace.nodes) == ["0.bias", "2.bias"]
    assert not list(pyro.get_param_store())


class Tied(nn.Module):
    """An embedding that is also the output layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, words):
        return self.out(self.embedding(words))


def test_a_tied_weight_is_one_site_that_is_used_twice():
    network = dsvi.nn.bayesianize(Tied())
    words = torch.tensor([1, 5, 0])
    trace = poutine.trace(network).get_trace(words)
    assert [name for name, _ in trace.iter_stochastic_nodes()] == ["embedding.weight"]
    w = trace.nodes["embedding.weight"]["value"]
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], w[words] @ w.T)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.attention(x, x, x)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


class Convolutional(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 1, 2, stride=2)
        )


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Attention(), torch.randn(2, 5, 4)),
        (Recurrent(), torch.randn(2, 5, 4)),
        (Convolutional().eval(), torch.randn(3, 1, 4, 4)),
        (nn.Bilinear(3, 2, 4), (torch.randn(5, 3), torch.randn(5, 2))),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), torch.randn(3, 4)),
    ],
    ids=["attention", "lstm", "convolutions", "bilinear", "parametrized"],
)
def test_every_weight_of_other_layers_reaches_the_output(net, x):
    args = x if isinstance(x, tuple) else (x,)
    network = dsvi.nn.bayesianize(net)
    values = {w.name: torch.randn_like(w.tensor).requires_grad_() for w in network.weights}
    assert list(values) == [name for name, _ in net.named_parameters()]
    with poutine.condition(data=values):
        out = network(*args)
    reference = copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(values[name])
    torch.testing.assert_close(out, reference(*args))
    gradients = torch.autograd.grad(out.square().sum(), list(values.values()))
    assert all(g.abs().sum() > 0 for g in gradients)


class Pair(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = dsvi.nn.bayesianize(nn.Linear(4, 2), select="weight")
        self.decoder = dsvi.nn.bayesianize(nn.Linear(2, 4), select="weight")

    def forward(self, x):
        return self.decoder(self.encoder(x))


def test_several_networks_in_one_program_have_names_of_their_own():
    assert list(latents(Pair(), X)) == ["encoder.weight", "decoder.weight"]
    first, second = (dsvi.nn.bayesianize(nn.Linear(4, 4), name=n) for n in ("a", "b"))
    assert list(latents(lambda x: second(first(x)), X)) == "a.weight a.bias b.weight b.bias".split()
    assert list(first.start()) == ["a.weight", "a.bias"]


def test_a_network_moves_with_to_and_saves_its_state():
    network = dsvi.nn.bayesianize(mlp(), dsvi.nn.FanIn(), select="*.weight").double()
    assert network(X.double()).dtype == torch.float64
    other = dsvi.nn.bayesianize(mlp(), select="*.weight").double()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.start()["0.weight"], network.start()["0.weight"])


# -- priors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law",
    [dist.Normal(0.1, 0.5), Horseshoe(0.3), LogUniform(), SpikeAndSlab(0.2, 0.01, 1.0)],
    ids=lambda law: type(law).__name__,
)
@pytest.mark.parametrize("wrap", [lambda law: law, dsvi.nn.IID])
def test_a_prior_for_all_elements_sums_their_log_densities(law, wrap):
    network = dsvi.nn.bayesianize(mlp(), wrap(law), select="*.weight")
    values = {w.name: torch.randn_like(w.tensor) for w in network.weights}
    trace = poutine.trace(poutine.condition(network, data=values)).get_trace(X)
    wanted = sum(law.log_prob(w).sum() for w in values.values())
    torch.testing.assert_close(trace.log_prob_sum(), wanted)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(16, 3), 16),
        (nn.Conv2d(4, 6, 3, groups=2), 18),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 18),
        (nn.Bilinear(3, 5, 2), 15),
        (nn.Embedding(50, 4), 1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_fan_in_is_the_number_of_a_units_inputs(layer, inputs):
    prior = dsvi.nn.FanIn(3.0)(dsvi.nn.Weight("weight", layer.weight, layer))
    assert prior.event_shape == layer.weight.shape
    assert prior.base_dist.scale.unique().item() == pytest.approx(3 / inputs**0.5)


def test_a_wide_network_with_fan_in_scaling_keeps_its_variance():
    """Law of large numbers: at width 4000 the layer's second moment is the input's."""
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise((4000, 300, 4000))))
    network = dsvi.nn.bayesianize(net, dsvi.nn.FanIn())
    out = network(torch.ones(1, 4000))
    assert abs(out.square().mean().item() - 1) < 4 * (2 / 300 + 2 / 4000) ** 0.5


def test_a_function_is_a_prior():
    def prior(weight):
        return dist.Normal(0.0, 1.0 if weight.role == "bias" else 0.1).expand(weight.tensor.shape)

    trace = poutine.trace(dsvi.nn.bayesianize(mlp(), prior)).get_trace(X)
    for name, scale in (("0.weight", 0.1), ("0.bias", 1.0)):
        assert trace.nodes[name]["fn"].base_dist.scale.unique().item() == pytest.approx(scale)


# -- a start ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["network", "net"])
def test_a_guide_starts_at_the_trained_network(which):
    net = mlp()
    network = dsvi.nn.bayesianize(net, name="f")
    trained = network if which == "network" else net
    init = dsvi.nn.init_to_network(trained, name="f")
    guide = AutoNormal(network, init_loc_fn=init)
    guide(X)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(guide.median()["f." + name], parameter.detach())


def test_other_sites_start_where_they_would():
    network = dsvi.nn.bayesianize(mlp())

    def model(x):
        network(x)
        pyro.sample("noise", dist.LogNormal(0.0, 1.0))

    guide = AutoNormal(model, init_loc_fn=dsvi.nn.init_to_network(network))
    guide(X)
    assert guide.median()["noise"] == 1.0


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"select": "nothing.*"}, "fits no parameter; the network has 0.weight"),
        ({"select": ["*.weight", nn.Conv2d]}, "Conv2d.*fits no parameter"),
        ({"select": 3}, "select=3"),
        ({"select": [3]}, "is no pattern"),
        ({"prior": 1.0}, "'0.weight': expected a Pyro distribution"),
        ({"prior": lambda w: w.tensor}, "expected a Pyro distribution"),
        ({"prior": dist.Normal(torch.zeros(2), 1.0)}, "does not expand to the weight's shape"),
        ({"prior": lambda w: dist.Normal(torch.zeros(2), 1.0)}, r"shape \(2,\), but the weight"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_run(arguments, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        dsvi.nn.bayesianize(mlp(), **arguments)


def test_only_networks_become_bayesian():
    with pytest.raises(InvalidArgument, match=r"expected a torch.nn.Module"):
        dsvi.nn.bayesianize(torch.relu)


def test_a_lazy_network_is_refused():
    with pytest.raises(InvalidArgument, match="has no shape yet"):
        dsvi.nn.bayesianize(nn.LazyLinear(3))


def test_fan_in_wants_a_positive_gain():
    with pytest.raises(InvalidArgument, match="gain=0"):
        dsvi.nn.FanIn(0)


def test_a_network_inside_a_plate_is_refused_by_name():
    network = dsvi.nn.bayesianize(mlp())
    with pytest.raises(IncompatibleSite, match=r"'0.weight'.*plate 'data'"), pyro.plate("data", 2):
        network(X)


def test_a_start_of_another_shape_is_refused_by_name():
    network = dsvi.nn.bayesianize(mlp())
    init = dsvi.nn.init_to_network(nn.Sequential(nn.Linear(3, 5)))
    with pytest.raises(SiteMismatch, match=r"'0.weight'.*\(5, 3\).*\(5, 4\)"):
        AutoNormal(network, init_loc_fn=init)(X)
