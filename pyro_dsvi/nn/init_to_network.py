"""Start a guide where a trained network is."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer.autoguide.initialization import init_to_feasible
from torch import Tensor, nn

from pyro_dsvi.errors import SiteMismatch
from pyro_dsvi.nn.bayesianize import BayesianModule


def init_to_network(
    net: nn.Module,
    *,
    name: str = "",
    fallback: Callable[[Any], Tensor] = init_to_feasible,
) -> Callable[[Any], Tensor]:
    """An ``init_loc_fn`` for Pyro's and our automatic guides: each weight at its trained value.

    Args:
        net: what :func:`~pyro_dsvi.nn.bayesianize` returned, for the values that its network had;
            or a network with parameters of the same names.
        name: what stands before the sites' names, if ``net`` is an ordinary network.
        fallback: the start of other sites.

    Raises:
        SiteMismatch: when a site and the parameter of that name have different shapes.

    Example:
        >>> import torch, pyro, pyro_dsvi as dsvi
        >>> net = torch.nn.Linear(3, 2)
        >>> network = dsvi.nn.bayesianize(net)
        >>> guide = pyro.infer.autoguide.AutoNormal(network, init_loc_fn=init_to_network(network))
        >>> draw = guide(torch.ones(1, 3))
        >>> bool((guide.median()["weight"] == net.weight).all())
        True
    """
    values = _values(net, name)

    def init(site: Any) -> Tensor:
        value = values.get(site["name"])
        if value is None:
            return fallback(site)
        shape = site["fn"].shape()
        if value.shape != shape:
            raise SiteMismatch(
                f"site {site['name']!r}: the network's parameter has shape {tuple(value.shape)}, "
                f"the site has {tuple(shape)}"
            )
        return value.detach().clone()

    return init


def _values(net: nn.Module, name: str) -> Mapping[str, Tensor]:
    if isinstance(net, BayesianModule):
        return net.start()
    prefix = f"{name}." if name else ""
    return {prefix + parameter: tensor for parameter, tensor in net.named_parameters()}
