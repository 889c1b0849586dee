r"""A bound of all particles of a step, of which one chunk at a time is differentiated.

With every log weight known as a number, the particles outside a chunk are constants, and

.. math:: \nabla B(\ell_1, \dots, \ell_K)
    = \sum_{\text{chunks } c} \nabla B(\dots, \underline{\ell}, \ell_k, \underline{\ell}, \dots)
    \Big|_{k \in c}

where what is underlined is held.  So a chunk's bundle of terms is completed by the others' log
weights, and whoever reads it finds the whole bound: its value, and its slopes, gains and baselines
at the chunk's own particles.  Under an additive bound only the credits have to be known, of sites
whose particles are one another's baseline.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.baselines import Baseline, Visit
from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.bundle import Bundle


class Changed(InvalidArgument):
    """A chunk does not fit those before, or not what it was itself the first time."""


@dataclass(eq=False)
class Tie:
    """A group of terms that stand under one bound, in every chunk.

    Attributes:
        bundle: one of the chunks' bundles, for all that is no log weight.
        latents: names of the latents that reach it in some chunk.
        reach: the same as a bit set.
    """

    bundle: Bundle
    latents: frozenset[str]
    reach: int


class Ties:
    """Tells which bundle of one chunk stands under the same bound as which of another."""

    def __init__(self) -> None:
        self.known: list[Tie] = []

    def number(self, bundle: Bundle) -> int:
        """The number of the group that a bundle belongs to, which may be a new one.

        Raises:
            Changed: if the chunk ties its terms otherwise than those before.
        """
        mine = [i for i, tie in enumerate(self.known) if tie.reach & bundle.reach]
        if not mine:
            self.known.append(Tie(bundle, bundle.latents, bundle.reach))
            return len(self.known) - 1
        tie = self.known[mine[0]]
        alike = (tie.bundle.shared, tie.bundle.weight) == (bundle.shared, bundle.weight)
        if len(mine) > 1 or not alike:
            names = ", ".join(map(repr, sorted(bundle.latents)))
            raise Changed(
                f"chunk: site {names}: particles that take different branches of the program tie "
                "its terms together in different ways, so that a chunk does not show the bound of "
                "all; hold all particles at once"
            )
        tie.latents |= bundle.latents
        tie.reach |= bundle.reach
        return mine[0]


@dataclass(eq=False)
class Whole:
    """What a first run of all chunks has found, without gradient.

    Attributes:
        num_particles: particles of the step.
        constant: sum of the terms that no latent reaches, averaged over particles, in nats.
        log_w: log weights of each group of terms, in nats, shape ``[K, *plates]``.
        credits: credit of each site, if asked for, per particle that reached it.
    """

    num_particles: int
    constant: Tensor = field(default_factory=lambda: torch.zeros(()))
    log_w: list[Tensor] = field(default_factory=list)
    credits: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ties = Ties()
        self._parts: list[dict[int, Tensor]] = []
        self._sizes: list[int] = []
        self._credits: list[Mapping[str, Tensor]] = []
        self._later: dict[str, tuple[Estimator, list[Visit]]] = {}

    def add(
        self,
        rows: int,
        bundles: Iterable[Bundle],
        constant: Tensor | None = None,
        credits: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take in the next chunk.

        Args:
            rows: its particles.
            bundles: the terms that stand under one bound.
            constant: the terms that no latent reaches.
            credits: credit of each site whose particles are one another's baseline.
        """
        self._sizes.append(rows)
        self._parts.append({self.ties.number(b): b.log_w.detach() for b in bundles})
        if constant is not None:
            self.constant = self.constant + constant.detach() * (rows / self.num_particles)
        self._credits.append({site: c.detach() for site, c in (credits or {}).items()})

    def close(self) -> None:
        """All chunks have been taken in."""
        self.log_w = [self._joined(i) for i in range(len(self.ties.known))]
        sites = {site for credits in self._credits for site in credits}
        self.credits = {
            site: torch.cat([c[site] for c in self._credits if site in c]) for site in sites
        }

    def _joined(self, number: int) -> Tensor:
        """A group's log weights; zero where a chunk's particles have taken another branch."""
        like = next(part[number] for part in self._parts if number in part)
        none = like.new_zeros((1,) * like.dim())
        parts = [part.get(number, none) for part in self._parts]
        shapes = {part.shape[1:] for part in parts}
        shape = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
        return torch.cat(
            [part.expand(n, *shape) for part, n in zip(parts, self._sizes, strict=True)]
        )

    @property
    def bundles(self) -> list[Bundle]:
        """The groups of terms, with the log weights of all particles."""
        return [
            replace(tie.bundle, log_w=log_w, latents=tie.latents, reach=tie.reach)
            for tie, log_w in zip(self.ties.known, self.log_w, strict=True)
        ]

    def value(self, bound: Bound) -> Tensor:
        """The bound's estimate in nats, a scalar."""
        total = self.constant
        for bundle in self.bundles:
            total = total + bound.value(bundle.log_w).sum() * bundle.weight
        return total

    def around(self, chunk: int) -> "Around":
        """The particles outside a chunk."""
        start = sum(self._sizes[:chunk])
        first: dict[str, int] = {}
        for credits in self._credits[:chunk]:
            for site, credit in credits.items():
                first[site] = first.get(site, 0) + len(credit)
        return Around(self, start, first)

    # -- what is learnt, once a step --------------------------------------------------------------

    def remember(self, estimator: Estimator, visit: Visit) -> None:
        """Keep what a chunk shows of a site for what its baseline learns, if it does."""
        baseline = estimator.baseline
        if baseline is None or type(baseline).update is Baseline.update:
            return
        rivals = visit.leave_one_out() if baseline.min_particles > 1 else visit.credit
        norm = visit.score_norm().detach()
        shown = replace(
            visit,
            score=visit.score.detach(),
            leave_one_out=lambda: rivals,
            score_norm=lambda: norm,
        )
        self._later.setdefault(visit.site, (estimator, []))[1].append(shown)

    def learn(self) -> None:
        """Let each baseline learn from all particles together."""
        for estimator, visits in self._later.values():
            estimator.update(_together(visits))


@dataclass(eq=False)
class Around:
    """The particles outside a chunk, as constants.

    Attributes:
        whole: all particles.
        start: index of the chunk's first particle.
        first: index of the first of a site's credits that belongs to the chunk.
    """

    whole: Whole
    start: int
    first: Mapping[str, int]

    def complete(self, bundle: Bundle) -> Bundle:
        """The chunk's terms beside the others' log weights.

        Raises:
            Changed: if the log weights are not those of the first time.
        """
        log_w = self.whole.log_w[self.whole.ties.number(bundle)]
        stop = self.start + len(bundle.log_w)
        mine = bundle.log_w.expand(len(bundle.log_w), *log_w.shape[1:])
        _refuse_changed(mine, log_w[self.start : stop], bundle.latents)
        return replace(bundle, log_w=torch.cat([log_w[: self.start], mine, log_w[stop:]]))

    def complete_credit(self, site: str, credit: Tensor) -> tuple[Tensor, slice]:
        """A site's credits of all particles, and where those of the chunk stand.

        A site that nobody knew of has those of the chunk for rivals, which is no less right.
        """
        whole = self.whole.credits.get(site)
        if whole is None:
            return credit, slice(0, len(credit))
        start = self.first.get(site, 0)
        mine = slice(start, start + len(credit))
        _refuse_changed(credit, whole[mine], [site])
        return whole, mine


def _refuse_changed(now: Tensor, before: Tensor, sites: Iterable[str]) -> None:
    if torch.allclose(now.detach(), before, rtol=1e-3, atol=1e-3, equal_nan=True):
        return
    raise Changed(
        f"chunk: site {', '.join(map(repr, sorted(sites)))}: when the particles were run again "
        "from the same random state, their log weights were others; the programs draw from a "
        "generator of their own, or change as they run, so all particles must be held at once"
    )


def _together(visits: Sequence[Visit]) -> Visit:
    """One site's visits in all chunks as one."""
    rivals = torch.cat([visit.leave_one_out() for visit in visits])
    norm = torch.cat([visit.score_norm() for visit in visits])
    shares: list[Any] = [visit.share for visit in visits]
    return replace(
        visits[0],
        credit=torch.cat([visit.credit for visit in visits]),
        score=torch.cat([visit.score for visit in visits]),
        share=torch.cat(shares) if isinstance(shares[0], Tensor) else shares[0],
        leave_one_out=lambda: rivals,
        score_norm=lambda: norm,
    )
