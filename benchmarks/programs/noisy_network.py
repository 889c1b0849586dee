"""A network for labels with Gaussian weights, and the gradient of its bound on given rows.

How the weights' noise reaches the outputs is a handler around the step, or none: one draw of all
weights for the whole minibatch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.handlers.undrawn_sites import UndrawnSites
from pyro_dsvi.lazy import Plan

Around = Callable[[], AbstractContextManager[Any]]
PLAIN, FLIPOUT, LOCAL, SEPARATE = "one draw", "flipout", "local", "a draw for each example"


def _separate() -> UndrawnSites:
    """Weights drawn for each example, which is what the local draw at the outputs is equal to."""
    return UndrawnSites(Plan("a draw of the weights for each example", "per_example"))


AROUND: Mapping[str, Around] = {
    PLAIN: nullcontext,
    FLIPOUT: dsvi.handlers.flipout,
    LOCAL: dsvi.handlers.local_reparameterization,
    SEPARATE: _separate,
}


@dataclass(frozen=True, eq=False)
class NoisyNetwork:
    """The programs and what they know.

    Attributes:
        network: the network as a program.
        laws: by site, a function that gives the guide's distribution.
        inputs: of all data, ``[N, ...]``.
        labels: of all data, ``[N]``.
    """

    network: dsvi.nn.BayesianModule
    laws: Mapping[str, Callable[[], dist.Normal]]
    inputs: Tensor
    labels: Tensor

    def model(self, rows: Tensor) -> None:
        """The model on rows of the data, which may come repeatedly."""
        logits = self.network(self.inputs[rows])
        with pyro.plate("data", len(self.labels), subsample=rows):
            pyro.sample("label", dist.Categorical(logits=logits), obs=self.labels[rows])

    def guide(self, rows: Tensor) -> None:
        """The guide, which draws the weights."""
        for name, law in self.laws.items():
            q = law()
            pyro.sample(name, q.to_event(q.loc.dim()))

    def rows(self, count: int) -> Tensor:
        """A minibatch drawn with replacement, so that its rows are independent."""
        return torch.randint(len(self.labels), (count,))

    def gradient(
        self, around: Around, rows: Tensor, groups: Sequence[Sequence[Tensor]]
    ) -> list[Tensor]:
        """The gradient of one step's loss, the divergence in closed form.

        Args:
            around: the handler.
            rows: of the data.
            groups: leaves, whose gradients are put into one vector for each group.
        """
        elbo = dsvi.PathwiseELBO(analytic_kl=True, max_plate_nesting=1)
        with around():
            loss = elbo.differentiable_loss(self.model, self.guide, rows)
        leaves = [leaf for group in groups for leaf in group]
        found = iter(torch.autograd.grad(loss, leaves))
        return [torch.cat([next(found).flatten() for _ in group]) for group in groups]
