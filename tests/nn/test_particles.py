"""Draws of the weights side by side give the outputs that each draw gives by itself."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument, LoopedParticlesWarning


class Reader(nn.Module):
    """Embedding, attention and a layer norm, with a pair for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, words):
        x = self.embedding(words)
        x, attended = self.attention(x, x, x)
        return {"out": self.norm(x), "attended": attended}


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (7, 4)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
        (7, 1, 6, 6),
    ),
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), (7, 4)),
}


def drawn(network, number: int, nesting: int, *args):
    """Run for several draws, as an objective does; then for each by itself."""
    plate = pyro.plate("num_particles_vectorized", number, dim=-1 - nesting)
    trace = poutine.trace(plate(network)).get_trace(*args)
    values = {name: site["value"] for name, site in trace.iter_stochastic_nodes()}
    singles = []
    for k in range(number):
        one = {n: v[k].reshape(v.shape[1 + nesting :]) for n, v in values.items()}
        singles.append(poutine.condition(network, data=one)(*args))
    return trace.nodes["_RETURN"]["value"], singles


@pytest.mark.parametrize("name", NETS)
def test_side_by_side_is_one_by_one(name):
    build, shape = NETS[name]
    network = dsvi.nn.bayesianize(build())
    found, singles = drawn(network, 4, 1, torch.randn(shape))
    assert found.shape == (4, 7, 3)
    torch.testing.assert_close(found, torch.stack(singles))


def test_outputs_may_be_any_nest_of_tensors():
    found, singles = drawn(dsvi.nn.bayesianize(Reader()), 3, 1, torch.tensor([[1, 5], [0, 2]]))
    for key in ("out", "attended"):
        torch.testing.assert_close(found[key], torch.stack([single[key] for single in singles]))


@pytest.mark.parametrize(
    ("event_dim", "nesting", "shape"),
    [(None, 0, (4, 7, 3)), (None, 1, (4, 7, 3)), (1, 1, (4, 7, 3)), (1, 2, (4, 1, 7, 3))],
)
def test_examples_take_the_place_of_the_plates(event_dim, nesting, shape):
    network = dsvi.nn.bayesianize(nn.Linear(4, 3), event_dim=event_dim)
    found, singles = drawn(network, 4, nesting, torch.randn(7, 4))
    assert found.shape == shape
    torch.testing.assert_close(found.reshape(4, 7, 3), torch.stack(singles))


def test_a_single_number_for_an_output_keeps_the_plates_to_its_right():
    network = dsvi.nn.bayesianize(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    found, _ = drawn(network, 4, 2, torch.randn(1, 4))
    assert found.shape == (4, 1, 1)


def test_more_event_dimensions_than_there_are_is_refused():
    network = dsvi.nn.bayesianize(nn.Linear(4, 3), event_dim=3)
    with pytest.raises(InvalidArgument, match="event_dim=3, but the network's output has 2"):
        drawn(network, 4, 1, torch.randn(7, 4))


class Deciding(nn.Module):
    """Its forward asks for a number, which is beyond a map over draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer(x)
        return x if x.sum().item() > 0 else -x


def test_what_cannot_be_mapped_is_run_in_a_loop_which_is_said_once():
    network = dsvi.nn.bayesianize(Deciding())
    x = torch.randn(7, 4)
    with pytest.warns(LoopedParticlesWarning, match="for each of 4 draws in turn"):
        found, singles = drawn(network, 4, 1, x)
    torch.testing.assert_close(found, torch.stack(singles))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(network, 4, 1, x)


def test_an_objective_finds_that_it_may_vectorise():
    """vectorize_particles=None runs one checked pass; a loop would be warned of, an error here."""
    network = dsvi.nn.bayesianize(NETS["mlp"][0]())
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])

    def model(x, y=None):
        logits = network(x)
        with pyro.plate("data", 7):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    guide = AutoNormal(model, init_loc_fn=dsvi.nn.init_to_network(network), init_scale=0.1)
    objective = dsvi.PathwiseELBO(num_particles=3, analytic_kl=True)
    assert objective.loss(model, guide, x, y) > 0
    for parallel in (False, True):
        samples = Predictive(model, guide=guide, num_samples=5, parallel=parallel)(x)
        assert samples["y"].reshape(-1, 7).shape == (5, 7)
