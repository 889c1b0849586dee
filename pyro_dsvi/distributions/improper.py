"""What every improper distribution has in common: a log density, and nothing to draw from."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite


class Improper(TorchDistribution):
    """A prior over the reals that has no normaliser; elementwise, with no parameter to learn.

    Args:
        batch_shape: shape of the elements.
        validate_args: as for any distribution.

    Raises:
        IncompatibleSite: when it is sampled.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.real
    has_rsample = False

    def __init__(
        self, batch_shape: Sequence[int] = (), *, validate_args: bool | None = None
    ) -> None:
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new: Any = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        name = type(self).__name__
        raise IncompatibleSite(
            f"{name}() is improper and cannot be sampled; give its site a guide, and the guide a "
            "start that draws nothing from the prior, as init_loc_fn=dsvi.nn.init_to_network(...)"
        )
