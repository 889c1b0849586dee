r"""A bound inside a mean: local latents have particles of their own for each global draw.

.. math:: \mathbb{E}_{q(g)} \Big[ \log \frac{p(g, \cdot)}{q(g)}
    + \sum_i B(\ell_{i1}, \dots, \ell_{iK}) \Big], \qquad
    \ell_{ik} = \log \frac{p(x_i, z_{ik} \mid g)}{q(z_{ik} \mid g, x_i)}

A latent is *local* if it lives in a vectorised plate, *global* if not.  A term that no local latent
reaches stands outside; all others stand under the bound B, in groups (``bundle``) that are tied by
local latents alone, so that a global latent merges no plate.  B of one element is at most
:math:`\log p(x_i \mid g)` in expectation, so the whole is a bound on log p(x), and since each
element's term is scaled outside of B, one that minibatches estimate without bias.

To the global latents the value of each B is one more term of an ELBO: it is part of their credit,
and of their path.  Once densities are frozen, a local density is differentiated neither in the
guide's parameters nor in the global draws that it depends on: the gain on the local draws' path
accounts for both.

References:
    :cite:p:`burda2016iwae`, :cite:p:`tucker2019dreg`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.bounds import Bound
from pyro_dsvi.bounds.bound import mean_of_others
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, check_whole
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.nodes import Cost, Latent, Run
from pyro_dsvi.graph.surrogate import Assembled, Assembler
from pyro_dsvi.graph.visits import shown_together


def check_local_particles(objective: str, local_particles: Any, bound: Bound, chunk: Any) -> None:
    """Refuse a number of local particles that cannot work.

    Raises:
        InvalidArgument: if it is no whole number, or the bound or chunks do not go with it.
    """
    if local_particles is None:
        return
    what = f"{objective}: local_particles"
    check_whole(what, local_particles, bound.min_particles, or_none=True)
    if bound.additive:
        raise InvalidArgument(
            f"{objective}: local_particles with {type(bound).__name__}, which is a plain mean, "
            "inside another mean; use num_particles, or e.g. dsvi.bounds.IWAE()"
        )
    if bound.guide is not bound:
        raise InvalidArgument(
            f"{objective}: local_particles with {bound!r}, whose guide follows {bound.guide!r}: "
            "inside a mean, model and guide have to climb one bound; use e.g. dsvi.bounds.IWAE()"
        )
    if chunk is not None:
        raise InvalidArgument(
            f"{objective}: local_particles with chunk={chunk}: nested particles are held all at "
            "once; leave one of the two out"
        )


def refuse_asking(site: str, estimator: Estimator) -> None:
    """Refuse what asks for the credit at other values, of which nested particles know nothing.

    Raises:
        IncompatibleSite: if the estimator asks.
    """
    if estimator.asks:
        raise IncompatibleSite(
            f"site {site!r}: {type(estimator).__name__} asks for the credit at other values, which "
            "is not offered with local_particles; use dsvi.estimators.Pathwise() or "
            "ScoreFunction() here"
        )


@dataclass(frozen=True)
class PerGlobalDraw(Bound):
    """A bound of the local particles of each global draw, which lie side by side.

    Args:
        bound: the bound of the local particles.
        local_particles: K; the rows of one global draw follow one another.
    """

    bound: Bound
    local_particles: int

    def value(self, log_w: Tensor) -> Tensor:
        """The bound of each global draw, shape ``[S * K, *plates]``: the same in K rows."""
        value = self.bound.value(self._apart(log_w))
        return value.repeat_interleave(self.local_particles, 0)

    def slope(self, log_w: Tensor) -> Tensor:
        return self._together(self.bound.slope(self._apart(log_w)))

    def gain(self, log_w: Tensor) -> Tensor:
        return self._together(self.bound.gain(self._apart(log_w)))

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        return self._together(self.bound.leave_one_out(self._apart(log_w)))

    def _apart(self, log_w: Tensor) -> Tensor:
        """``[S * K, *plates]`` as ``[K, S, *plates]``."""
        return log_w.unflatten(0, (-1, self.local_particles)).movedim(1, 0)

    def _together(self, x: Tensor) -> Tensor:
        return x.movedim(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class OfGlobalDraws(Bound):
    """The mean over global draws, each of which stands in K rows.

    Args:
        local_particles: K.
    """

    local_particles: int

    additive: ClassVar[bool] = True

    def value(self, log_w: Tensor) -> Tensor:
        return log_w.mean(0)

    def leave_one_out(self, log_w: Tensor) -> Tensor:
        K = self.local_particles
        return mean_of_others(log_w[::K]).repeat_interleave(K, 0)


@dataclass(eq=False)
class NestedAssembler(Assembler):
    """Puts the runs of a step together, the local particles of a global draw after one another.

    Args:
        local_particles: K.

    Raises:
        IncompatibleSite: if there is no local latent, or a global one that depends on a local one.
    """

    local_particles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inner = PerGlobalDraw(self.bound, self.local_particles)
        self.num_globals = self.num_particles // self.local_particles
        latents = [latent for run in self.runs for latent in run.latents.values()]
        self.local_bits = 0
        for latent in latents:
            self.local_bits |= latent.bit if latent.plates else 0
        _refuse(latents, self.local_bits)

    def evaluate(self) -> Assembled:
        groups, outer = self._split()
        total = outer.total()
        return Assembled(total, total, groups)

    def assemble(self) -> Assembled:
        groups, outer = self._split()
        total = outer.total()
        surrogate, visits = total, outer.additive_visits()
        for group in groups:
            sites = [list(self.parts(site)) for site in sorted(group.latents)]
            visits += self._local_visits(group, sites)
            surrogate = surrogate + self._own(group, sites)
        return Assembled(total, self.with_terms(surrogate, visits), groups)

    def _split(self) -> tuple[list[Bundle], Assembler]:
        """The groups of local terms, and the ELBO in which each is one term."""
        local = [replace(run, costs=list(self._local_costs(run))) for run in self.runs]
        groups, _ = bundles(local, self.layout)
        terms: list[Cost] = []
        for group in groups:
            reach = 0
            for cost in (cost for run in self.runs for cost in run.costs):
                if cost.reach & group.reach:
                    reach |= cost.reach
            value = self.inner.value(group.log_w) * group.weight
            site = ", ".join(sorted(group.latents))
            terms.append(
                Cost(site, False, value, group.shared, reach, group.weight, None, None, None)
            )
        outer = [self._outer(run, rows, terms) for run, rows in self.rows()]
        bound = OfGlobalDraws(self.local_particles)
        return groups, Assembler(bound, outer, self.args, self.kwargs)

    def _local_costs(self, run: Run) -> Iterator[Cost]:
        """The terms that local latents reach, as if nothing else reached them."""
        for cost in run.costs:
            if cost.reach & self.local_bits:
                yield replace(cost, reach=cost.reach & self.local_bits)

    def _outer(self, run: Run, rows: Tensor, terms: Sequence[Cost]) -> Run:
        latents = {name: latent for name, latent in run.latents.items() if not latent.plates}
        costs = []
        for cost in run.costs:
            if cost.reach & self.local_bits:
                continue
            latent = latents.get(cost.site) if cost.of_guide else None
            costs.append(cost if latent is None else _as_in_elbo(cost, latent))
        costs += [replace(term, log_density=term.log_density[rows]) for term in terms]
        return replace(run, costs=costs, latents=latents)

    def _local_visits(self, group: Bundle, sites) -> Iterator[tuple[Estimator, Visit]]:
        log_w = group.log_w.detach()
        value = self.inner.value(log_w)
        for parts in shown_together(sites):
            rows = torch.cat([rows for _, _, rows in parts])
            rivals = partial(self._local_rivals, log_w, rows)
            share = group.weight / self.num_globals
            yield self.showing.visit(parts, value[rows], share, 1.0, rivals, None)

    def _local_rivals(self, log_w: Tensor, rows: Tensor) -> Tensor:
        return self.inner.leave_one_out(log_w)[rows]

    def _own(self, group: Bundle, sites) -> Tensor:
        """What freezing has taken from score-function sites, given back."""
        total = torch.zeros((), device=self.layout.device)
        for run, latent, rows in (part for parts in sites for part in parts):
            if latent.own is not None:
                own = self.layout.arrange(latent.own, run.rows)
                own = self.layout.sum_to(own, latent.plates, group.shared)
                slope = self.inner.slope(group.log_w.detach())[rows]
                total = total + (slope * own).sum() / self.num_globals
        return total


def _as_in_elbo(cost: Cost, latent: Latent) -> Cost:
    """The guide's density of a draw: by itself, that of a score-function site moves nothing."""
    if latent.score is None or latent.estimator.passes_gradient:
        return cost
    return replace(cost, log_density=cost.log_density.detach())


def _refuse(latents: Sequence[Latent], local_bits: int) -> None:
    if not local_bits:
        names = ", ".join(repr(latent.site) for latent in latents)
        raise IncompatibleSite(
            f"site {names}: local_particles are for latents inside a plate, and here there is "
            "none; use num_particles alone"
        )
    for latent in latents:
        if not latent.plates and latent.reach & local_bits:
            raise IncompatibleSite(
                f"site {latent.site!r}: it lies outside all plates, but the guide draws it given a "
                "latent inside one, which has several particles for each of its draws; draw it "
                "first, or use num_particles alone"
            )
