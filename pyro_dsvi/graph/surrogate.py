r"""One scalar from which every gradient comes by one backward pass.

.. math:: S = \hat B(\text{live}) + \sum_{z} \mathrm{share}_z \, (\hat Q_z - b_z)\, \log q(z)
    - \text{auxiliary losses}

The first sum carries what flows through parameters and reparameterised draws, the second what only
a density can tell; both count.

References:
    :cite:p:`schulman2015scg`
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.bounds import Bound
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.counterfactual import additive_credits, joint_credits
from pyro_dsvi.graph.credit import downstream_credits
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Latent, Run
from pyro_dsvi.graph.sides import are_apart, sides
from pyro_dsvi.graph.visits import Part, Showing, may_be_shown_as_one, shown_together
from pyro_dsvi.graph.whole import Around


@dataclass(eq=False)
class Assembled:
    """The result of a step.

    Attributes:
        value: the bound's estimate in nats, a scalar; its gradient is that of the live part.
        surrogate: scalar whose gradient is the estimate of the bound's gradient.
        bundles: the groups of terms that stand under one bound (none for an additive one).
    """

    value: Tensor
    surrogate: Tensor
    bundles: Sequence[Bundle] = ()


@dataclass(eq=False)
class Assembler:
    """Puts the runs of a step together under one bound.

    Args:
        bound: the bound.
        runs: the executions of guide and model.
        args: the programs' positional arguments, for the baselines.
        kwargs: the programs' keyword arguments.
        around: the particles of the step that are not in these runs, if these are a chunk of it.
    """

    bound: Bound
    runs: Sequence[Run]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    around: Around | None = None

    def __post_init__(self) -> None:
        latents = (latent for run in self.runs for latent in run.latents.values())
        further = (answer.run for latent in latents for answer in latent.answers)
        self.layout = Layout.of([*self.runs, *further])
        self.num_particles = sum(run.rows for run in self.runs)
        if self.around is not None:
            self.num_particles = self.around.whole.num_particles
        self.showing = Showing(
            self.layout, self.num_particles, self.bound.additive, self.args, self.kwargs or {}
        )

    def assemble(self) -> Assembled:
        """The bound's value and the surrogate."""
        return self._additive() if self.bound.additive else self._joint()

    def evaluate(self) -> Assembled:
        """The bound's value alone."""
        if self.bound.additive:
            total = self.total()
            return Assembled(total, total)
        groups, constant = self._groups()
        total = self._value(groups, constant)
        return Assembled(total, total, groups)

    # -- bounds that are sums of costs -------------------------------------------------------

    def _additive(self) -> Assembled:
        total = self.total()
        return Assembled(total, self.with_terms(total, self.additive_visits()))

    def additive_visits(self) -> list[tuple[Estimator, Visit]]:
        """What the sites are shown, each its own downstream costs."""
        visits, pieces = self._credited()
        for parts in shown_together(pieces.values()):
            run, latent, _ = parts[0]
            credit = _cat([credit for _, _, credit in parts])
            asked = latent.counterfactual is not None
            others = additive_credits(latent, run, self.layout) if asked else None
            scale, share = (
                self.showing.scale(latent),
                self.showing.share([run for run, _, _ in parts], latent.site),
            )
            rivals = partial(self._rivals, latent.site, credit)
            visits.append(self.showing.visit(parts, credit, share, scale, rivals, others))
        return visits

    def credits(self) -> dict[str, Tensor]:
        """Each site's credit under an additive bound, where another particle may be its rival."""
        pieces = self._credited()[1]
        return {site: _cat([credit for _, _, credit in parts]) for site, parts in pieces.items()}

    def _credited(self) -> tuple[list[tuple[Estimator, Visit]], dict[str, list[Part]]]:
        """Visits of sites that are shown as one, and of all others the runs with their credits."""
        visits: list[tuple[Estimator, Visit]] = []
        pieces: dict[str, list[Part]] = defaultdict(list)
        for run in self.runs:
            for latents, credits in downstream_credits(run, self.layout):
                if may_be_shown_as_one(latents, credits):
                    rivals = partial(self._rivals_of_many, latents, credits)
                    visits.append(self.showing.visit_of_many(run, latents, credits, rivals))
                    continue
                for latent, credit in zip(latents, credits, strict=True):
                    pieces[latent.site].append((run, latent, credit))
            for site, branch in run.branches.items():
                credit = branch.spread(branch.credit, run.rows, self.layout.depth)
                pieces[site].append((run, run.latents[site], credit))
        return visits, pieces

    def _rivals_of_many(self, latents: Sequence[Latent], credits: Tensor) -> Tensor:
        pairs = zip(latents, credits, strict=True)
        return torch.stack([self._rivals(latent.site, credit) for latent, credit in pairs])

    def total(self) -> Tensor:
        """The mean over particles of the sum of their costs."""
        costs = [cost for run in self.runs for cost in run.costs]
        of_model = [cost.log_density for cost in costs if not cost.of_guide]
        of_guide = [cost.log_density for cost in costs if cost.of_guide]
        total = _sum(of_model) - _sum(of_guide) if of_guide else _sum(of_model)
        return total if self.num_particles == 1 else total / self.num_particles

    def _rivals(self, site: str, credit: Tensor) -> Tensor:
        mine = slice(None)
        if self.around is not None:
            credit, mine = self.around.complete_credit(site, credit)
        if len(credit) < 2:  # a site that no other particle of a branching program reached
            return torch.zeros_like(credit)
        return self.bound.leave_one_out(credit)[mine]

    # -- bounds on log weights ---------------------------------------------------------------

    def _joint(self) -> Assembled:
        groups, constant = self._groups()
        total = self._value(groups, constant)
        frozen = any(run.frozen for run in self.runs)
        apart = are_apart(self.bound, frozen)
        surrogate, visits = self._two_sides(groups, constant, frozen) if apart else total, []
        follows = self.bound.guide
        for group in groups:
            log_w = group.log_w.detach()
            sites = [list(self.parts(site)) for site in sorted(group.latents)]
            if isinstance(follows, Bound):
                visits += self._visits(sites, group, follows)
            owned = [part for parts in sites for part in parts if part[1].own is not None]
            slope = follows.density(log_w) if owned else log_w
            for run, latent, rows in owned:
                assert latent.own is not None  # as selected
                own = self.layout.arrange(latent.own, run.rows)
                own = self.layout.sum_to(own, latent.plates, group.shared)
                surrogate = surrogate + (slope[rows] * own).sum()
        return Assembled(total, self.with_terms(surrogate, visits), groups)

    def _visits(
        self, sites: list[list[Part]], group: Bundle, bound: Bound
    ) -> Iterator[tuple[Estimator, Visit]]:
        """The sites of a group, shown with what they answer for under the guide's bound."""
        if not any(sites):
            return
        log_w = group.log_w.detach()
        value = bound.value(log_w)
        for parts in shown_together(sites):
            run, latent, _ = parts[0]
            rows = _cat([rows for _, _, rows in parts])
            credit = value.expand(len(rows), *value.shape)
            asked = latent.counterfactual is not None
            others = joint_credits(latent, run, rows, group, bound, self.layout) if asked else None
            rivals = partial(_joint_rivals, bound, log_w, rows)
            yield self.showing.visit(parts, credit, group.weight, 1.0, rivals, others)

    def _two_sides(self, groups: Sequence[Bundle], constant: Tensor | None, frozen: bool) -> Tensor:
        """The live part where model and guide receive weights of their own."""
        parts = [] if constant is None else [constant]
        start = 0 if self.around is None else self.around.start
        mine = slice(start, start + sum(run.rows for run in self.runs))
        for group in groups:
            weights = sides(self.bound, group.log_w.detach(), frozen)
            parts.append(_weighed(weights.model[mine], group.of_model) * group.weight)
            parts.append(_weighed(weights.guide[mine], group.of_guide) * group.weight)
        return _sum(parts)

    def parts(self, site: str) -> Iterator[Part]:
        """The runs in which a latent has a score, each with the indices of its particles."""
        for run, rows in self.rows():
            latent = run.latents.get(site)
            if latent is not None and latent.score is not None:
                yield run, latent, rows

    def _groups(self) -> tuple[list[Bundle], Tensor | None]:
        """The terms under one bound, and what no latent reaches; of a chunk, its share of both."""
        groups, constant = bundles(self.runs, self.layout)
        if self.around is not None:  # what follows finds the whole bound, most of it held
            groups = [self.around.complete(group) for group in groups]
            share = sum(run.rows for run in self.runs) / self.num_particles
            constant = None if constant is None else constant * share
        return groups, constant

    def _value(self, groups: Sequence[Bundle], constant: Tensor | None) -> Tensor:
        parts = [self.bound.value(group.log_w).sum() * group.weight for group in groups]
        return _sum(parts if constant is None else [*parts, constant])

    def rows(self) -> Iterator[tuple[Run, Tensor]]:
        """The runs, each with the indices of its particles."""
        start = 0 if self.around is None else self.around.start
        for run in self.runs:
            yield run, torch.arange(start, start + run.rows, device=self.layout.device)
            start += run.rows

    # -- both --------------------------------------------------------------------------------

    def with_terms(self, live: Tensor, visits: list[tuple[Estimator, Visit]]) -> Tensor:
        """What is differentiated as it is, and what the estimators add; baselines learn from it."""
        weights, scores, losses = [], [], []
        for estimator, visit in visits:
            weight, score, auxiliary = estimator.surrogate(visit)
            if weight.shape != score.shape:
                weight = weight.expand(score.shape)
            alone = isinstance(visit.share, float) and visit.share == 1
            weights.append(_flat(weight if alone else weight * visit.share))
            scores.append(_flat(score))
            if auxiliary is not None:
                losses.append(-auxiliary)
        for estimator, visit in visits:
            if self.around is None:
                estimator.update(visit)
            else:
                self.around.whole.remember(estimator, visit)
        if weights:
            weight, score = _cat(weights), _cat(scores)
            # An element that answers for nothing sends nothing, whatever its density: where a
            # mask has silenced it, that may be 0 times NaN.
            losses.append(_weighed(weight, score))
        return _sum([live, *losses])


def _weighed(weight: Tensor, x: Tensor) -> Tensor:
    """Inner product in which a weight of zero silences infinity and NaN."""
    return torch.where(weight == 0, weight, weight * x).sum()


def _joint_rivals(bound: Bound, log_w: Tensor, rows: Tensor) -> Tensor:
    return bound.leave_one_out(log_w)[rows]


def _flat(x: Tensor) -> Tensor:
    return x if x.dim() == 1 else x.reshape(-1)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sum(parts: list[Tensor]) -> Tensor:
    """Sum of tensors of any shapes, as a scalar; zero if there are none."""
    if not parts:
        return torch.zeros(())
    flat = [part if part.dim() == 0 else part.sum() for part in parts]
    if len({(part.device, part.dtype) for part in flat}) == 1 and len(flat) > 2:
        return torch.stack(flat).sum()
    total = flat[0]
    for part in flat[1:]:
        total = total + part
    return total
