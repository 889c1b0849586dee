"""Which parameters of a network are to be random: by name, by layer type, by predicate."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_dsvi.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Weight:
    """One parameter of a network.

    Attributes:
        name: its dotted name in the network, e.g. ``"encoder.0.weight"``; the first of them, if it
            is tied.
        tensor: its value.
        layer: the module that it belongs to.
    """

    name: str
    tensor: Tensor
    layer: nn.Module

    @property
    def role(self) -> str:
        """Its name in its layer, e.g. ``"weight"``."""
        return self.name.rpartition(".")[2]


Condition = str | type[nn.Module] | Callable[[Weight], bool]
Select = Condition | Iterable[Condition]


def weights_of(net: nn.Module) -> Iterator[Weight]:
    """Every parameter of a network, once."""
    for name, tensor in net.named_parameters():
        if is_lazy(tensor):
            raise InvalidArgument(
                f"bayesianize: {name!r} has no shape yet; run the network once before"
            )
        yield Weight(name, tensor, net.get_submodule(name.rpartition(".")[0]))


def selected(net: nn.Module, select: Select) -> list[Weight]:
    """The parameters that meet one condition at least.

    Args:
        net: the network.
        select: as for :func:`~pyro_dsvi.nn.bayesianize`.

    Raises:
        InvalidArgument: if a condition is none, or is met by no parameter.
    """
    conditions: list[Any] = [select] if _is_condition(select) else list(_iterable(select))
    weights, found = list(weights_of(net)), set()
    for condition in conditions:
        met = {weight.name for weight in weights if _meets(weight, condition)}
        if not met:
            names = ", ".join(weight.name for weight in weights) or "none"
            raise InvalidArgument(
                f"bayesianize: select={condition!r} fits no parameter; the network has {names}"
            )
        found |= met
    return [weight for weight in weights if weight.name in found]


def _is_condition(x: Any) -> bool:
    return isinstance(x, str) or callable(x)


def _iterable(select: Any) -> Iterable[Any]:
    if not isinstance(select, Iterable):
        raise InvalidArgument(
            f"bayesianize: select={select!r}; give a pattern such as '*.weight', a layer type, a "
            "function of a Weight, or several of them"
        )
    return select


def _meets(weight: Weight, condition: Any) -> bool:
    if isinstance(condition, str):
        return fnmatchcase(weight.name, condition)
    if isinstance(condition, type):
        return isinstance(weight.layer, condition)
    if callable(condition):
        return bool(condition(weight))
    raise InvalidArgument(
        f"bayesianize: select has {condition!r}, which is no pattern, layer type or function"
    )
