"""How a step's latents are shown to their estimators, as visits.

Particles that went one by one are shown together, but to an estimator that asks for counterfactual
credits, which is shown the run that it asked about.  Sites that an estimator does not tell apart
are shown as one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.baselines import Visit
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.estimators.law import tensors_of
from pyro_dsvi.graph.counterfactual import Credits
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Latent, Run

# A latent of one run, with its credits, or with the indices of the run's particles.
Part = tuple[Run, Latent, Tensor]


@dataclass(frozen=True, eq=False)
class Showing:
    """Makes the visits of one step.

    Args:
        layout: layout of the step.
        num_particles: particles of the step.
        additive: whether the bound is additive.
        args: the programs' positional arguments.
        kwargs: the programs' keyword arguments.
    """

    layout: Layout
    num_particles: int
    additive: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def visit_of_many(
        self,
        run: Run,
        latents: Sequence[Latent],
        credits: Tensor,
        rivals: Callable[[], Tensor],
    ) -> tuple[Estimator, Visit]:
        """Sites in the same plates, whose estimator does not tell them apart, as one."""
        scores = torch.stack([latent.score for latent in latents if latent.score is not None])
        return latents[0].estimator, Visit(
            site=", ".join(latent.site for latent in latents),
            credit=credits,
            score=scores.reshape(credits.shape),
            share=1 / self.num_particles,
            scale=self.scale(latents[0]),
            leave_one_out=rivals,
            score_norm=lambda: torch.stack([self._score_norm(latent, run) for latent in latents]),
            args=self.args,
            kwargs=self.kwargs,
        )

    def visit(
        self,
        parts: list[Part],
        credit: Tensor,
        share: float | Tensor,
        scale: float,
        rivals: Callable[[], Tensor],
        others: Credits | None,
    ) -> tuple[Estimator, Visit]:
        """One site, in one run or in several.

        Args:
            parts: the site in each run.
            credit: its credit, shape ``[K, *plates]``.
            share: weight of each element in the surrogate.
            scale: factor by which subsampling multiplies the credit.
            rivals: gives the bound without each particle in turn.
            others: its credits at other values, if its estimator asks for them.
        """
        first = parts[0][1]
        scores = [self._arrange(_scored(latent), run, latent) for run, latent, _ in parts]
        visit = Visit(
            site=first.site,
            credit=credit,
            score=_cat(scores),
            share=share,
            scale=scale,
            leave_one_out=rivals,
            score_norm=lambda: _cat([self._score_norm(latent, run) for run, latent, _ in parts]),
            args=self.args,
            kwargs=self.kwargs,
        )
        if others is not None:
            visit.q, visit.value, visit.counterfactual = first.q, first.value, first.counterfactual
            visit.credits, visit.totals = others
            visit.separate = self.additive
        return first.estimator, visit

    def scale(self, latent: Latent) -> float:
        """Factor by which subsampling multiplies a site's credit."""
        scale = 1.0
        for plate in latent.plates:
            scale *= self.layout.plates[plate].scale
        return scale

    def share(self, runs: Sequence[Run], site: str) -> float | Tensor:
        """Weight of each of a site's draws: of K particles, and of the branches of each."""
        branches = [(run.branches[site], run.rows) for run in runs if site in run.branches]
        if not branches:
            return 1 / self.num_particles
        shares = [branch.spread(branch.share, n, self.layout.depth) for branch, n in branches]
        return _cat(shares) / self.num_particles

    def _arrange(self, x: Tensor, run: Run, latent: Latent) -> Tensor:
        """What belongs to a latent, in a program's batch shape, as ``[rows, *plates]``."""
        branch = run.branches.get(latent.site)
        if branch is not None:
            return branch.arrange(x, run.rows, self.layout.depth)
        return self.layout.arrange(x, run.rows)

    def _score_norm(self, latent: Latent, run: Run) -> Tensor:
        """Squared norm of the score's gradient with respect to the distribution's parameters."""
        parameters = [p for p in tensors_of(latent.q) if p.requires_grad]
        score = _scored(latent)
        total = torch.zeros_like(score)
        if not parameters or not score.requires_grad:
            return self._arrange(torch.ones_like(total), run, latent)
        for gradient in torch.autograd.grad(
            score, parameters, torch.ones_like(score), retain_graph=True, allow_unused=True
        ):
            if gradient is None:
                continue
            extra = gradient.dim() - score.dim()
            square = gradient.square()
            total = total + (square.flatten(-extra).sum(-1) if extra > 0 else square)
        return self._arrange(total, run, latent)


def shown_together(sites: Iterable[list[Part]]) -> Iterator[list[Part]]:
    """What of each site is shown in one visit: all its runs, or one where it asks of its own."""
    for parts in sites:
        if parts and parts[0][1].counterfactual is None:
            yield parts
        else:
            yield from ([part] for part in parts)


def may_be_shown_as_one(latents: Sequence[Latent], credits: Tensor) -> bool:
    """Whether the sites' estimator looks at nothing that tells them apart."""
    first = latents[0]
    if not first.estimator.elementwise or first.estimator.baseline is not None:
        return False
    return (
        all(
            latent.estimator == first.estimator
            and latent.score is not None
            and latent.score.numel() == credits[0].numel()
            for latent in latents
        )
        and len({latent.score.shape for latent in latents if latent.score is not None}) == 1
    )


def _scored(latent: Latent) -> Tensor:
    assert latent.score is not None  # only latents with a score are visited
    return latent.score


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
