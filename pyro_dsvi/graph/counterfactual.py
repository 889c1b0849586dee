r"""What a site would have been answerable for, had its value been another.

.. math:: \hat Q_z(z') = \sum_{c \,:\, z \prec c} c(z'), \qquad
    \hat Q_{z,k}(z') = B(\ell_1, \dots, \ell_k(z'), \dots, \ell_K)

under an additive bound and under one on log weights.  The costs come from a further run of the
programs in which the site has its other value, what lies downstream is drawn anew, and all else is
held.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.credit import downstream_credit
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Answer, Latent, Run


class Credits(NamedTuple):
    """What a site's other values would have been answerable for, in nats.

    Attributes:
        credits: for each particle and plate element, shape ``[A, rows, *plates]``.
        totals: the same summed over particles and plates, each cost once, however many elements
            answer for it, shape ``[A]``.
    """

    credits: Tensor
    totals: Tensor


def additive_credits(latent: Latent, run: Run, layout: Layout) -> Credits:
    """The site's downstream costs at its other values."""
    _refuse_coupled(latent, (cost.plates for cost in run.costs if cost.reach & latent.bit))
    answers = _answers(latent, run)
    if not answers:
        return _nothing_asked(latent, run, layout)
    credits = _stack(
        downstream_credit(latent.site, further, layout)[rows] for further, rows in answers
    )
    totals = _stack(_total(latent, further, rows, layout) for further, rows in answers)
    return Credits(credits.unflatten(0, (-1, run.rows)), totals.unflatten(0, (-1, run.rows)).sum(1))


def joint_credits(
    latent: Latent, run: Run, particles: Tensor, bundle: Bundle, bound: Bound, layout: Layout
) -> Credits:
    """The bound with each particle's log weight at its other values.

    Args:
        latent: the site.
        run: the run that it belongs to.
        particles: indices of the run's particles among all.
        bundle: the terms that stand under one bound with the site.
        bound: the bound.
        layout: layout of the step.
    """
    _refuse_coupled(latent, [bundle.shared])
    answers = _answers(latent, run)
    if not answers:
        return _nothing_asked(latent, run, layout)
    log_w = _stack(_log_w(latent.site, further, layout)[rows] for further, rows in answers)
    others = log_w.unflatten(0, (-1, run.rows))
    credits = bound.replaced(bundle.log_w.detach(), others, particles)
    return Credits(credits, credits.flatten(1).sum(1))


def _answers(latent: Latent, run: Run) -> list[Answer]:
    r"""The site's answers, their slopes being those of the path that its draw was made by.

    A draw :math:`z = \mu + A \varepsilon` moves its own live density by the value and by the
    parameters, and the two cancel but for :math:`\log |A|`; so neither counts.
    """
    if latent.estimator.relaxes:
        _refuse_steps(latent)
    if run.frozen or not latent.estimator.passes_gradient:
        return latent.answers
    return [answer._replace(run=_own_held(latent, answer.run)) for answer in latent.answers]


def _refuse_steps(latent: Latent) -> None:
    """Refuse costs that follow a relaxed value in steps: what has no slope leaves a bias.

    Raises:
        IncompatibleSite: if the value reaches a cost without a gradient.
    """
    for further, _ in latent.answers:
        for cost in further.costs:
            if cost.reach & latent.bit and not cost.log_density.requires_grad:
                program = "guide" if cost.of_guide else "model"
                raise IncompatibleSite(
                    f"site {latent.site!r}: {type(latent.estimator).__name__} relaxes its value, "
                    f"which reaches the {program}'s site {cost.site!r} without a slope, by a "
                    "comparison or an index; write it as a smooth function of the value, or use "
                    "dsvi.estimators.DisARM() or ScoreFunction() here"
                )


def _own_held(latent: Latent, run: Run) -> Run:
    costs = [
        replace(cost, log_density=cost.log_density.detach())
        if cost.of_guide and cost.site == latent.site
        else cost
        for cost in run.costs
    ]
    return replace(run, costs=costs)


def _nothing_asked(latent: Latent, run: Run, layout: Layout) -> Credits:
    assert latent.score is not None  # as for every site that is visited
    like = layout.arrange(latent.score.detach(), run.rows)
    return Credits(like.new_zeros((0, *like.shape)), like.new_zeros(0))


def _total(latent: Latent, run: Run, rows: slice, layout: Layout) -> Tensor:
    """Each particle's sum of the costs that the site reaches, shape ``[rows]``."""
    total = torch.zeros(rows.stop - rows.start, device=layout.device)
    for cost in run.costs:
        if cost.reach & latent.bit:
            total = total + layout.arrange(cost.value, run.rows)[rows].reshape(len(total), -1).sum(
                1
            )
    return total


def _log_w(site: str, run: Run, layout: Layout) -> Tensor:
    groups, _ = bundles([run], layout)
    (log_w,) = (group.log_w for group in groups if site in group.latents)
    return log_w


def _stack(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _refuse_coupled(latent: Latent, plate_sets: Iterable[frozenset[str]]) -> None:
    """Refuse values put in at all elements at once where they answer for one another.

    Raises:
        IncompatibleSite: if some cost does not live in all plates of the site.
    """
    if latent.estimator.joint:
        return
    for plates in plate_sets:
        if not latent.plates <= plates:
            outside = ", ".join(repr(name) for name in sorted(latent.plates - plates))
            name = type(latent.estimator).__name__
            raise IncompatibleSite(
                f"site {latent.site!r}: {name} asks about each plate element by itself, but the "
                f"elements of plate {outside} answer for a common cost outside it; use "
                "dsvi.estimators.ScoreFunction() here, or DisARM() if it is a bit or a category"
            )
