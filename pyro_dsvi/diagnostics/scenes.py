"""The gradients of a step under every selection of its terms, minibatch by minibatch.

Within a minibatch the same draws serve all selections, and what the objective has learnt stays as
it is.  Where all minibatches, or all joint draws within one, are few, each is visited once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.estimates import step_with_value
from pyro_dsvi.diagnostics.handlers import Given
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.selection import GivenMinibatch, Only, SeenMinibatches, Terms
from pyro_dsvi.diagnostics.undisturbed import Memory, random_state, same_random_state
from pyro_dsvi.diagnostics.undisturbed import set_random_state as go_back
from pyro_dsvi.errors import NoReference

Indices = Mapping[str, Tensor]


@dataclass(eq=False)
class Moments:
    """Of one minibatch, over the draws: by selection and element, shape ``[selections, elements]``.

    The first element is the bound's value, the others are those of its gradient.

    Attributes:
        mean: of the estimates.
        variance: of the estimates.
        contribution: variance of what a selection adds to the estimate from no term, which is the
            second selection.
        covariance: with the estimate from all terms, which is the first.
        draws: how many there were; infinite where all have been visited.
    """

    mean: Tensor
    variance: Tensor
    contribution: Tensor
    covariance: Tensor
    draws: float


@dataclass(eq=False)
class Stage:
    """An objective and its programs, whose steps are taken apart.

    Args:
        objective: the objective.
        programs: model and guide.
        bound: the bound that it estimates.
        num_draws: draws within a minibatch, if they cannot all be visited.
    """

    objective: Any
    programs: Programs
    bound: Bound
    num_draws: int

    def __post_init__(self) -> None:
        self._memory = Memory(self.objective)
        self._too_many = False  # joint draws, as it once turned out
        self._particles = getattr(self.objective, "num_particles", 1)

    def minibatches(self, number: int) -> tuple[list[Indices], bool, bool]:
        """Minibatches of the subsampled plates: all of them where there are no more than asked for.

        Returns:
            Elements by plate, whether there is any choice of them, and whether these are all.
        """
        seen = self._minibatch()
        if not seen.indices:
            return [{}] * number, False, True
        counts = [math.comb(n, len(seen.indices[name])) for name, n in seen.sizes.items()]
        if math.prod(counts) <= number:
            return list(_every_minibatch(seen)), True, True
        return [self._minibatch().indices for _ in range(number)], True, False

    def _minibatch(self) -> SeenMinibatches:
        with SeenMinibatches() as seen:
            self._step(Terms())
        return seen

    def moments(self, minibatch: Indices, selections: Sequence[Terms]) -> Moments:
        """Moments over the draws, given the minibatch."""
        with GivenMinibatch(minibatch):
            weighted = self._visited(selections)
            if weighted is not None:
                weight, rows = weighted
                return _moments(rows, weight, 1.0, math.inf)
            rows = torch.stack([self._drawn(selections) for _ in range(self.num_draws)])
        weight = torch.full((self.num_draws,), 1 / self.num_draws, dtype=torch.float64)
        return _moments(rows, weight, self.num_draws / (self.num_draws - 1), self.num_draws)

    def scout(self, minibatch: Indices) -> Only:
        """What terms and plates a step has."""
        with GivenMinibatch(minibatch), Only(Terms()) as only:
            self._step(Terms())
        return only

    def once(self, minibatch: Indices, selections: Sequence[Terms]) -> Tensor:
        """One draw's estimate under each selection, shape ``[selections, elements]``."""
        with GivenMinibatch(minibatch):
            return self._drawn(selections)

    def _drawn(self, selections: Sequence[Terms]) -> Tensor:
        before = random_state()
        rows = []
        for terms in selections:
            go_back(before)
            rows.append(self._step(terms))
        return torch.stack(rows)

    def _visited(self, selections: Sequence[Terms]) -> tuple[Tensor, Tensor] | None:
        """Weight of every joint draw, and the estimates there; None if there are too many."""
        if self._too_many:
            return None
        self._too_many = True
        try:
            draws, _ = Enumeration(max_draws=self.num_draws).every_draw(
                self.programs, self.bound, 1, nodes=16
            )
        except NoReference:
            return None
        if len(draws) ** self._particles > self.num_draws:
            return None
        before = random_state()
        weights, rows = [], []
        for joint in product(draws, repeat=self._particles):
            values = [draw.values for draw in joint]
            steps = [self._step(terms, partial(Given, values)) for terms in selections]
            if not same_random_state(before, random_state()):
                return None
            weights.append(math.exp(sum(float(draw.log_q.detach()) for draw in joint)))
            rows.append(torch.stack(steps))
        self._too_many = False
        return torch.tensor(weights, dtype=torch.float64), torch.stack(rows)

    def _step(
        self, terms: Terms, around: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> Tensor:
        self._memory.recall()
        only = nullcontext() if terms.all else Only(terms)
        with only, around():
            value, gradient = step_with_value(self.objective, self.programs)
        parts = [g.detach().double().flatten().cpu() for g in gradient]
        return torch.cat([torch.tensor([value], dtype=torch.float64), *parts])


def _every_minibatch(seen: SeenMinibatches) -> Iterator[Indices]:
    names = list(seen.indices)
    subsets = [combinations(range(seen.sizes[name]), len(seen.indices[name])) for name in names]
    for chosen in product(*subsets):
        pairs = zip(names, chosen, strict=True)
        yield {n: torch.tensor(c, device=seen.indices[n].device) for n, c in pairs}


def _moments(rows: Tensor, weight: Tensor, correction: float, draws: float) -> Moments:
    """Of weighted rows ``[draws, selections, elements]``; first come all terms, then no term."""
    weight = weight / weight.sum()
    mean = torch.tensordot(weight, rows, 1)
    centred = rows - mean
    variance = torch.tensordot(weight, centred.square(), 1) * correction
    covariance = torch.tensordot(weight, centred * centred[:, :1], 1) * correction
    own = torch.tensordot(weight, (centred - centred[:, 1:2]).square(), 1) * correction
    return Moments(mean, variance, own, covariance, draws)
