r"""A baseline is what is subtracted from a score-function site's credit.

.. math:: \mathbb{E}\big[(c - b)\,\nabla \log q(z)\big] = \mathbb{E}\big[c\,\nabla \log q(z)\big]

for every b that does not depend on the site's own draw.  A good b is close to c.

References:
    :cite:p:`williams1992reinforce`, :cite:p:`greensmith2004`
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyro_dsvi.baselines.visit import Visit


class Baseline(torch.nn.Module, ABC):
    """Predicts a site's credit without looking at the site's draw.

    One instance may serve many sites: what it learns is kept per site, in the module
    (``state_dict``, ``to``), and does not depend on the batch's size.  In each step the caller
    first asks for :meth:`predict`, then for :meth:`loss`, then calls :meth:`update`, so that no
    credit is ever compared with a prediction made from itself.

    Attributes:
        min_particles: the fewest particles the baseline can work with.
    """

    min_particles: int = 1

    @abstractmethod
    def predict(self, visit: Visit) -> Tensor:
        """Prediction of ``visit.credit`` in nats, without gradient, broadcastable to it."""

    def loss(self, visit: Visit) -> Tensor | None:
        """Loss that trains the baseline's own parameters, a scalar; None if it has none."""
        return None

    def update(self, visit: Visit) -> None:
        """Learn from this step's credit, for the steps to come."""

    def inherit(self, previous: "Baseline") -> None:
        """Go on from the state of an equal baseline that served the same site before.

        A baseline that is written inline in a guide is a new object in every step; this hands
        the running state from one to the next.
        """


class PerSite(torch.nn.Module):
    """Small running tensors, one for each site, created at a site's first visit.

    They travel in ``state_dict`` (as extra state, since site names may hold dots) and with ``to``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, Tensor] = {}

    def row(self, site: str, size: int, like: Tensor) -> Tensor:
        """The site's tensor of ``size`` numbers, zeros at first, on the device of ``like``."""
        row = self._rows.get(site)
        if row is None:
            row = like.new_zeros(size)
        elif row.device != like.device:
            row = row.to(like.device)
        self._rows[site] = row
        return row

    def get_extra_state(self) -> dict[str, Tensor]:
        return {site: row.clone() for site, row in self._rows.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self._rows = {site: row.clone() for site, row in state.items()}

    def _apply(self, fn, recurse=True):  # torch's hook behind to(), cuda(), double()
        self._rows = {site: fn(row) for site, row in self._rows.items()}
        return super()._apply(fn, recurse)
