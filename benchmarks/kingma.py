r"""The gradient's variance at both ends of a dropout network, early and late in training.

The comparison of Kingma, Salimans and Welling (2015, their first table), on MNIST-5k: a network of
rectifiers under Gaussian dropout with independent noise on each weight, w ~ N(μ, αμ²), at the
rates that correspond to dropping a fifth of the pixels and half of the hidden units (α = p / (1 −
p)), under the log-uniform prior, whose divergence then depends on no mean.  What differs is how the
noise of a minibatch is drawn:

- at the outputs of the layers: local reparameterisation;
- as weights for each example, which has the same law and costs a network an example;
- as one draw of the weights for the minibatch;
- not at all: what is left is the variance that minibatches bring.

Two steps of the order are theorems, for any network without sharing of weights and for rows drawn
independently; what is measured is how far apart they are.  Given the outputs b of all layers, the
weights of an example are independent between layers, and the mean of a layer's Jacobian is the
Jacobian of the local draw, so that

.. math:: g_{local} = E[g_{example} \mid b], \qquad
    \operatorname{Cov}_{one}(g_i, g_j) = \operatorname{Var}_w E[g_i \mid w] \ge 0.

Late in training most of the variance comes from a few images, so many more gradients are needed.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pyro
import torch
from torch import Tensor, nn

import pyro_dsvi as dsvi
from benchmarks.interleave import Interval, pinned
from benchmarks.programs.mnist5k import Digits, mnist5k
from benchmarks.programs.noisy_network import AROUND, LOCAL, PLAIN, SEPARATE, NoisyNetwork
from benchmarks.report import Bars, Report, Settings, Table, Target
from benchmarks.spread import Spread
from pyro_dsvi.distributions.multiplicative_normal import MultiplicativeNormal

NAME = "kingma"
NONE = "no noise"
# In the order of their variance.
WAYS = (NONE, LOCAL, SEPARATE, PLAIN)
WIDTHS = (784, 300, 300, 10)
DROPPED = (0.2, 0.5, 0.5)
NO_NOISE = 1e-12  # α: a millionth of each weight
MINIBATCH, RATE = 100, 1e-3
STAGES = {"early": 3, "late": 30}  # epochs
# Gradients by stage, and those with a draw for each example, which cost a network an example.
REPEATS = {"early": (100, 20), "late": (800, 160)}
ENDS = ("bottom", "top")

Found = dict[str, dict[str, Spread]]


class Dropout:
    """The network and its guide, whose noise can be taken away.

    Args:
        digits: the training set.
        seed: of the network.
    """

    def __init__(self, digits: Digits, seed: int = 0) -> None:
        pyro.set_rng_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(WIDTHS):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        net = nn.Sequential(*layers[:-1])
        network = dsvi.nn.bayesianize(net, dsvi.distributions.LogUniform(), "*.weight")
        self.means = {n: w.clone().requires_grad_() for n, w in network.start().items()}
        self.noisy = True
        self.alphas = dict(zip(self.means, (p / (1 - p) for p in DROPPED), strict=True))
        laws = {name: partial(self._law, name) for name in self.means}
        self.problem = NoisyNetwork(network, laws, digits.images, digits.labels)
        self.biases = list(network.parameters())

    def _law(self, name: str) -> MultiplicativeNormal:
        alpha = torch.tensor(self.alphas[name] if self.noisy else NO_NOISE)
        return MultiplicativeNormal(self.means[name], alpha.log())

    def train(self, epochs: int, optimizer: torch.optim.Optimizer) -> None:
        """Train by local reparameterisation."""
        leaves = [*self.means.values(), *self.biases]
        for _ in range(epochs):
            for rows in torch.randperm(len(self.problem.labels)).split(MINIBATCH):
                (gradient,) = self.problem.gradient(AROUND[LOCAL], rows, [leaves])
                parts = gradient.split([leaf.numel() for leaf in leaves])
                for leaf, part in zip(leaves, parts, strict=True):
                    leaf.grad = part.view_as(leaf)
                optimizer.step()

    def spread(self, way: str, size: int, repeats: int, seed: int) -> dict[str, Spread]:
        """Variance of the gradient in the first and the last layer's means.

        Args:
            way: how the noise is drawn.
            size: rows in a minibatch.
            repeats: gradients, each on a minibatch of its own.
            seed: of the rows, the noise and the bootstrap.
        """
        pyro.set_rng_seed(seed)
        means = list(self.means.values())
        self.noisy = way != NONE
        around = AROUND[way if self.noisy else PLAIN]
        draws = [
            self.problem.gradient(around, self.problem.rows(size), [means[:1], means[-1:]])
            for _ in range(repeats)
        ]
        self.noisy = True
        return {
            end: Spread.of(torch.stack(rows), seed)
            for end, rows in zip(ENDS, zip(*draws, strict=True), strict=True)
        }

    @torch.no_grad()
    def error(self, digits: Digits) -> float:
        """Share of wrong labels by the means."""
        logits: Tensor = pyro.condition(self.problem.network, data=self.means)(digits.images)
        return (logits.argmax(-1) != digits.labels).double().mean().item()


def run(settings: Settings) -> Report:
    """Train, stop twice on the way, and measure."""
    repeats = {"early": (8, 8), "late": (8, 8)} if settings.quick else REPEATS
    minibatch = 10 if settings.quick else MINIBATCH
    stages = {"early": 0, "late": 1} if settings.quick else STAGES
    report = Report(NAME, "a dropout network's gradient variance by how the noise is drawn")
    report.notes.append(
        f"MNIST-5k, 4,000 images; {'-'.join(map(str, WIDTHS))}, Gaussian dropout of weights at "
        f"rates {', '.join(map(str, DROPPED))}; trained by local reparameterisation, Adam at "
        f"{RATE:g}, minibatches of {MINIBATCH}; variance of the gradient in a layer's means, "
        f"summed over them, on minibatches of {minibatch} drawn with replacement; seed "
        f"{settings.seed}; 95 % bootstrap intervals"
    )
    found: dict[str, Found] = {}
    with pinned(settings.threads), pyro.get_param_store().scope():
        train, test = mnist5k(settings.seed)
        network = Dropout(train, settings.seed)
        leaves = [*network.means.values(), *network.biases]
        optimizer = torch.optim.Adam(leaves, lr=RATE)
        done = 0
        for number, (stage, epochs) in enumerate(stages.items()):
            network.train(epochs - done, optimizer)
            done = epochs
            error = network.error(test)
            many, few = repeats[stage]
            report.notes.append(
                f"{stage}: after {epochs} epochs, test error {error:.1%}; {many} gradients for "
                f"each number, {few} with {SEPARATE}"
            )
            print(report.notes[-1], flush=True)
            found[stage] = {}
            for place, way in enumerate(WAYS):
                seed = 1 + settings.seed + 100 * number + place
                found[stage][way] = network.spread(
                    way, minibatch, few if way == SEPARATE else many, seed
                )
    _tabulate(report, found)
    return report


def _tabulate(report: Report, found: dict[str, Found]) -> None:
    cells = [(end, stage) for end in reversed(ENDS) for stage in found]
    rows = [
        [way, *(_shown(found[stage][way][end].interval) for end, stage in cells)]
        for way in reversed(WAYS)
    ]
    columns = ["", *(f"{end} layer, {stage}" for end, stage in cells)]
    report.tables.append(Table("variance of the gradient, nats² per squared unit", columns, rows))
    for end, stage in cells:
        by_way = {way: found[stage][way][end] for way in WAYS}
        for less, more in pairwise(WAYS):
            what = f"variance, {end} layer, {stage}: {less} ÷ {more}"
            report.targets.append(Target(what, by_way[less].over(by_way[more]), 1.0))
        report.panels.append(_panel(by_way, f"{end} layer, {stage}"))
    report.data["variance"] = {
        stage: {way: {end: vars(s.interval) for end, s in by.items()} for way, by in ways.items()}
        for stage, ways in found.items()
    }


def _panel(by_way: dict[str, Spread], where: str) -> Bars:
    local = by_way[LOCAL].value
    unit = Spread(local, np.full(1, local))  # as if it were known, so that all bars share one
    ratios: Sequence[Interval] = [spread.over(unit) for spread in by_way.values()]
    return Bars(f"variance of the gradient ÷ that of {LOCAL}, {where}", list(by_way), ratios)


def _shown(v: Interval) -> str:
    return f"{v.value:.3g} ({v.low:.3g} .. {v.high:.3g})"
