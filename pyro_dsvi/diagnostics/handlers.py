"""Handlers that settle what a run of the programs would leave to chance."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.diagnostics.branches import branches, placed
from pyro_dsvi.errors import NoReference
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.graph.nodes import PARTICLES


class SameMinibatch(Messenger):
    """Gives every plate the minibatch that it got first, from a seed of its own.

    Args:
        seed: what the minibatches are drawn from, beside the plates' names.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.minibatches: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if not site_is_subsample(msg) or msg["done"] or msg["value"] is not None:
            return
        size, part = msg["fn"].size, msg["fn"].subsample_size
        if part is None or part >= size:
            return  # all of it, as ever
        if name not in self.minibatches:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed ^ zlib.crc32(name.encode()))
                self.minibatches[name] = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["value"], msg["done"] = self.minibatches[name], True


class Unannotated(Messenger):
    """Hides what the sites say of their estimators.

    Args:
        hidden: the annotations that are hidden.
    """

    def __init__(self, hidden: Sequence[str] = ("estimator", "frozen")) -> None:
        super().__init__()
        self.hidden = hidden

    def _pyro_sample(self, msg: Any) -> None:
        msg["infer"] = {k: v for k, v in msg["infer"].items() if k not in self.hidden}


class Explore(Messenger):
    """Takes one branch at each site of the guide, the first one where none is prescribed.

    Args:
        prescribed: index of the branch at each of the first sites.
        nodes: nodes for each element of a Normal site.

    Attributes:
        taken: index of the branch taken at each site, and how many there are.
        values: value at each site, or the noise that it is made from, by name.
        discrete: names of the sites whose values have probabilities.
        log_weight: log weight of the other sites' nodes.
        exact: whether no site had nodes or a truncated support.
    """

    def __init__(self, prescribed: Sequence[int], nodes: int) -> None:
        super().__init__()
        self.prescribed = prescribed
        self.nodes = nodes
        self.taken: list[tuple[int, int]] = []
        self.values: dict[str, Tensor] = {}
        self.discrete: list[str] = []
        self.log_weight = 0.0
        self.exact = True

    def _pyro_sample(self, msg: Any) -> None:
        q = msg["fn"]
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg) or is_point_mass(q):
            return
        found = branches(q, self.nodes)
        if isinstance(found, str):
            raise NoReference(f"site {msg['name']!r}: {found}")
        depth = len(self.taken)
        index = self.prescribed[depth] if depth < len(self.prescribed) else 0
        value, log_weight = found[index]
        self.taken.append((index, found.count))
        self.values[msg["name"]] = value
        if found.log_weight is None:
            self.discrete.append(msg["name"])
        self.log_weight += log_weight
        self.exact = self.exact and found.exact
        msg["value"], msg["done"] = placed(q, value), True


class Given(Messenger):
    """Gives the particles of one step their values, each of which is used once.

    What asks for more, or for another shape, is left to be drawn: the random generator tells.

    Args:
        particles: each particle's values by site.
    """

    def __init__(self, particles: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.particles = particles
        self.particle = -1
        self.seen: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        name, q = msg["name"], msg["fn"]
        if msg["done"] or msg["is_observed"] or not any(name in p for p in self.particles):
            return
        stack = msg["cond_indep_stack"]
        rows = next((frame.size for frame in stack if frame.name == PARTICLES), None)
        if rows is None:
            if self.particle < 0 or name in self.seen:  # the first site again: the next particle
                self.particle, self.seen = self.particle + 1, set()
            wanted = self.particles[self.particle : self.particle + 1]
        else:
            wanted = [] if name in self.seen or rows != len(self.particles) else self.particles
        self.seen.add(name)
        values = [particle[name] for particle in wanted if name in particle]
        if values and sum(value.numel() for value in values) == q.shape().numel():
            msg["value"], msg["done"] = _as_if_drawn(q, placed(q, torch.stack(values))), True


def _as_if_drawn(q: Any, value: Tensor) -> Tensor:
    """The value, computed from the distribution: some objectives follow tensors through a draw."""
    other = q.log_prob(value).detach().sum().to(value.dtype)
    return torch.where(torch.ones_like(value, dtype=torch.bool), value, other)
