r"""What a site would have been answerable for, had its value been another.

.. math:: \hat Q_z(z') = \sum_{c \,:\, z \prec c} c(z'), \qquad
    \hat Q_{z,k}(z') = B(\ell_1, \dots, \ell_k(z'), \dots, \ell_K)

under an additive bound and under one on log weights.  The costs come from a further run of the
programs in which the site has its other value, what lies downstream is drawn anew, and all else is
held.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.bundle import Bundle, bundles
from pyro_dsvi.graph.credit import downstream_credit
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Latent, Run


def additive_credits(latent: Latent, run: Run, layout: Layout) -> Tensor:
    """The site's downstream costs at its other values, in nats, ``[A, rows, *plates]``."""
    _refuse_coupled(latent, (cost.plates for cost in run.costs if cost.reach & latent.bit))
    return _stack(
        downstream_credit(latent.site, answer.run, layout)[answer.rows] for answer in latent.answers
    ).unflatten(0, (-1, run.rows))


def joint_credits(
    latent: Latent, run: Run, particles: Tensor, bundle: Bundle, bound: Bound, layout: Layout
) -> Tensor:
    """The bound with each particle's log weight at its other values, in nats.

    Args:
        latent: the site.
        run: the run that it belongs to.
        particles: indices of the run's particles among all.
        bundle: the terms that stand under one bound with the site.
        bound: the bound.
        layout: layout of the step.

    Returns:
        Credits, shape ``[A, rows, *plates]``.
    """
    _refuse_coupled(latent, [bundle.shared])
    log_w = _stack(_log_w(latent.site, run, layout)[rows] for run, rows in latent.answers)
    others = log_w.unflatten(0, (-1, run.rows))
    return bound.replaced(bundle.log_w.detach(), others, particles)


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
                "dsvi.estimators.DisARM() or dsvi.estimators.ScoreFunction() here"
            )
