r"""Programs that run as independent copies in one plate, to take an estimate's moments at once.

Every copy has parameters of its own, so its gradient can be told from the others', and one step
gives as many estimates as there are copies: at given draws and noise for a quadrature, or at random
ones for a z-score.
"""

from collections.abc import Callable, Iterable

import pyro
import torch
from torch import Tensor

import pyro_dsvi as dsvi


def step(
    objective: dsvi.Objective,
    model: Callable[..., object],
    guide: Callable[..., object],
    parameters: Iterable[Tensor],
) -> list[Tensor]:
    """Each copy's estimate of the bound's gradient, by parameter, ``[copies, *shape]``."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    objective.loss_and_grads(model, guide)
    return [torch.zeros_like(p) if p.grad is None else -p.grad for p in parameters]


def own_copies(value: Tensor, copies: int) -> Tensor:
    """A leaf tensor with so many copies of a parameter's value."""
    return value.detach().expand(copies, *value.shape).clone().requires_grad_()


def assert_unbiased(estimates: Tensor, truth: Tensor, sigmas: float = 4.5) -> None:
    """The mean over copies lies within so many standard errors of the truth, entry by entry.

    An entry without any spread must be the truth to rounding.
    """
    mean, error = estimates.mean(0), estimates.std(0) / len(estimates) ** 0.5
    sure = error < 1e-12
    torch.testing.assert_close(mean[sure], truth[sure], rtol=0, atol=1e-9)
    score = ((mean - truth) / error)[~sure]
    assert score.numel() == 0 or float(score.abs().max()) < sigmas, (
        f"z-scores {score.tolist()}, mean {mean.tolist()}, truth {truth.tolist()}"
    )


class Given(pyro.poutine.messenger.Messenger):
    """Gives latent sites of the first run their values; further runs draw as they like."""

    def __init__(self, **values: Tensor) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values and not (msg["done"] or msg["is_observed"]):
            msg["value"] = self.values[msg["name"]].reshape(msg["fn"].shape())
            msg["done"] = True
