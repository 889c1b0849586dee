"""How an undrawn tensor is drawn where it is used: the settings, and the names of the choices."""

from dataclasses import dataclass
from typing import Literal

from pyro_dsvi.errors import InvalidArgument, check_whole

Way = Literal["per_example", "marginal", "flipout"]
WAYS: tuple[Way, ...] = ("per_example", "marginal", "flipout")


@dataclass(frozen=True)
class Plan:
    """How the noise of a weight reaches the outputs.

    Attributes:
        title: what the handler is called in messages.
        alone: how outputs are drawn of which each uses weights of its own: ``"marginal"``, noise of
            the output's own variance, is exact here; or ``"flipout"``.
        shared: the same where an example uses a weight at several positions, as in a convolution:
            ``"per_example"`` draws the weights once for each example and is exact; ``"flipout"`` is
            exact; ``"marginal"`` takes the outputs for independent, and is biased.
        example_dims: how many dimensions of an input run over examples; those that follow run over
            positions within an example.
    """

    title: str
    alone: Way = "marginal"
    shared: Way = "per_example"
    example_dims: int = 1

    def __post_init__(self) -> None:
        if self.shared not in WAYS:
            raise InvalidArgument(
                f"{self.title}: conv must be one of {', '.join(map(repr, WAYS))}, "
                f"got {self.shared!r}"
            )
        check_whole(f"{self.title}: example_dims", self.example_dims, 0)
