"""Pruning leaves an ordinary network with the guide's means where they stand out of their noise."""

import copy

import pytest
import torch
from torch import nn

import pyro_dsvi as dsvi
from pyro_dsvi.distributions import LogUniform
from pyro_dsvi.errors import InvalidArgument, SiteMismatch

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Noise:
    """A guide whose means and noise are given."""

    def __init__(self, network, **log_alpha) -> None:
        self.locs = {w.name: torch.randn_like(w.tensor) for w in network.weights}
        self.noise = {
            name: log_alpha.get(name.replace(".", "_"), torch.zeros_like(loc))
            for name, loc in self.locs.items()
        }

    def median(self):
        return self.locs

    def log_alpha(self):
        return self.noise


def sparse() -> tuple:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    network = dsvi.nn.bayesianize(net, LogUniform(), "*.weight")
    log_alpha = torch.full((5, 4), 3.5)
    log_alpha[0, :2], log_alpha[4, 1] = -1.0, 3.0  # the threshold itself is kept
    return net, network, Noise(network, **{"0_weight": log_alpha})


def test_the_pruned_network_is_the_network_of_masked_means():
    net, network, guide = sparse()
    pruned = dsvi.nn.prune(network, guide)
    reference = copy.deepcopy(net)
    with torch.no_grad():
        keep = guide.noise["0.weight"] <= 3
        reference[0].weight.copy_(guide.locs["0.weight"] * keep)
        reference[2].weight.copy_(guide.locs["2.weight"])
    torch.testing.assert_close(pruned.net(X), reference(X), rtol=0, atol=0)
    assert type(pruned.net) is nn.Sequential
    names = [name for name, _ in pruned.net.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    pruned.net.load_state_dict(net.state_dict())  # the same keys


def test_its_size_is_reported_with_and_without_what_was_no_candidate():
    _, network, guide = sparse()
    pruned = dsvi.nn.prune(network, guide)
    assert pruned.total == {"0.weight": 20, "2.weight": 15}
    assert pruned.nonzero == {"0.weight": 3, "2.weight": 15}
    assert pruned.others == 8
    assert pruned.compression == pytest.approx(35 / 18)
    assert pruned.compression_of_all == pytest.approx(43 / 26)
    assert str(pruned).splitlines() == [
        "0.weight: 3 of 20 left (6.667x)",
        "2.weight: 15 of 15 left (1x)",
        "weights: 18 of 35 left (1.944x)",
        "with 8 other parameters: 26 of 43 left (1.654x)",
    ]


@pytest.mark.parametrize(("threshold", "left"), [(-2.0, 0), (0.0, 17), (3.0, 18), (4.0, 35)])
def test_the_threshold_decides(threshold, left):
    _, network, guide = sparse()
    pruned = dsvi.nn.prune(network, guide, threshold=threshold)
    assert sum(pruned.nonzero.values()) == left


def test_a_mean_of_zero_is_not_counted_as_left():
    _, network, guide = sparse()
    guide.locs["2.weight"][0, :] = 0.0
    assert dsvi.nn.prune(network, guide).nonzero["2.weight"] == 10


def test_tied_weights_stay_tied_and_count_once():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    net[2].weight = net[0].weight
    network = dsvi.nn.bayesianize(net, LogUniform())
    pruned = dsvi.nn.prune(network, Noise(network))
    assert pruned.net[0].weight is pruned.net[2].weight
    assert pruned.total == {"0.weight": 16}


def test_a_guide_that_knows_no_noise_is_refused():
    _, network, _ = sparse()
    with pytest.raises(InvalidArgument, match="does not say how noisy"):
        dsvi.nn.prune(network, torch.nn.Identity())


def test_a_guide_that_lacks_a_weight_is_refused_by_name():
    _, network, guide = sparse()
    del guide.noise["2.weight"]
    with pytest.raises(SiteMismatch, match=r"'2.weight'"):
        dsvi.nn.prune(network, guide)
