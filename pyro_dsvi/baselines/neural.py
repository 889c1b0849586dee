r"""A network of the program's inputs, trained beside the guide to predict the credit.

.. math:: \min_\psi \; \mathbb{E}\big[(c - b_\psi(x))^2\big]

References:
    :cite:p:`mnih2014nvil`
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_dsvi.baselines.baseline import Baseline
from pyro_dsvi.baselines.visit import Visit
from pyro_dsvi.errors import IncompatibleSite


class Neural(Baseline):
    """Input-dependent baseline ``net(inputs)``.

    The network predicts the credit per datum, with the subsampling scale divided out.  Its loss is
    part of the same step: its parameters are announced to ``pyro.infer.SVI`` and are among
    ``objective(model, guide).parameters()``.  No gradient passes between the network and the
    model or guide.

    Args:
        net: maps inputs to predictions of the site's plate shape, e.g. ``[M]`` or ``[M, 1]`` for
            a site inside one plate of M elements.
        inputs: a tensor, or a function of the program's arguments that returns one.

    Raises:
        IncompatibleSite: at the first step, if the predictions do not fit the site's plates.

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> elbo = dsvi.ScoreFunctionELBO(dsvi.baselines.Neural(net, inputs=lambda x: x))
    """

    def __init__(self, net: torch.nn.Module, inputs: Tensor | Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = net
        self.inputs = inputs

    def predict(self, visit: Visit) -> Tensor:
        return self._per_datum(visit).detach() * visit.scale

    def loss(self, visit: Visit) -> Tensor:
        error = visit.credit / visit.scale - self._per_datum(visit)
        return error.square().mean()

    def _per_datum(self, visit: Visit) -> Tensor:
        inputs = (
            self.inputs
            if isinstance(self.inputs, Tensor)
            else self.inputs(*visit.args, **visit.kwargs)
        )
        with torch.enable_grad():
            prediction = self.net(inputs.detach())
        target = visit.credit.shape
        for shaped in (prediction, prediction.squeeze(-1)):
            if shaped.dim() <= len(target) and _fits(shaped.shape, target):
                return shaped
        raise IncompatibleSite(
            f"site {visit.site!r}: the neural baseline returned shape {tuple(prediction.shape)}, "
            f"which does not fit the credit's {tuple(target)} (particles, then plates); "
            "let the network return one number for each plate element"
        )


def _fits(shape: torch.Size, target: torch.Size) -> bool:
    sizes = zip(reversed(shape), reversed(target), strict=False)
    return all(size in (1, wanted) for size, wanted in sizes)
