"""A network's own forward at weights that are not its own, for one draw of them or for many.

Draws side by side have dimensions to the left of a weight's: the particles' own, and one of size
one for every plate that the weight is not in.  The forward knows nothing of these, so it is mapped
over them, and the outputs' leading dimensions, the examples, take the place of the plates:

    weights ``[P, 1, out, in]``, inputs ``[N, in]`` -> outputs ``[P, N, out]``
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from pyro_dsvi.errors import InvalidArgument, LoopedParticlesWarning


def evaluate(
    net: nn.Module,
    weights: Mapping[str, Tensor],
    dims: Mapping[str, int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    event_dim: int | None = None,
    say: Callable[[type[Warning], str], None] | None = None,
) -> Any:
    """Run the network with other weights.

    Args:
        net: the network, which is left as it is.
        weights: the weights by name; tied ones once.
        dims: number of dimensions that the network's own have.
        args: positional arguments of its forward, the same for all draws.
        kwargs: keyword arguments of its forward.
        event_dim: dimensions of an output to the right of all plates.  None: the output has as many
            dimensions to the left of these as there are plates.
        say: gives a warning once.

    Returns:
        What the forward returns; each tensor with the draws' dimensions on the left, if there are
        several draws.
    """
    lead = torch.broadcast_shapes(*(w.shape[: w.dim() - dims[name]] for name, w in weights.items()))
    if lead.numel() == 1:
        single = {name: _without_lead(w, dims[name]) for name, w in weights.items()}
        return functional_call(net, single, args, dict(kwargs))
    kept = lead[: max(i for i, n in enumerate(lead) if n != 1) + 1]
    spread = {name: _rows(w, dims[name], lead) for name, w in weights.items()}

    def one(row: Mapping[str, Tensor]) -> Any:
        return functional_call(net, dict(row), args, dict(kwargs))

    outputs = _each(one, spread, lead.numel(), say)
    plates = len(lead) - len(kept)
    return pytree.tree_map(lambda x: _shaped(x, kept, plates, event_dim), outputs)


def _each(
    one: Callable[[Mapping[str, Tensor]], Any],
    spread: Mapping[str, Tensor],
    number: int,
    say: Callable[[type[Warning], str], None] | None,
) -> Any:
    """The outputs of all draws, stacked; side by side where that can be."""
    if all(type(w) is Tensor for w in spread.values()):
        try:
            return vmap(one, randomness="different")(dict(spread))
        except (RuntimeError, NotImplementedError) as error:
            if say is not None:
                first_line = (str(error).splitlines() or [""])[0]
                say(
                    LoopedParticlesWarning,
                    f"the network is run for each of {number} draws in turn, since torch cannot "
                    f"map its forward over them: {first_line}",
                )
    runs = [one({name: w[k] for name, w in spread.items()}) for k in range(number)]
    return pytree.tree_map(lambda *x: torch.stack(x), *runs)


def _without_lead(w: Tensor, dims: int) -> Tensor:
    while w.dim() > dims:
        w = w[0]
    return w


def _rows(w: Tensor, dims: int, lead: torch.Size) -> Tensor:
    """All draws of one weight along its first dimension."""
    own = w.shape[w.dim() - dims :]
    return w.expand(*lead, *own).reshape(lead.numel(), *own)


def _shaped(x: Any, kept: torch.Size, plates: int, event_dim: int | None) -> Any:
    if not isinstance(x, Tensor):
        return x
    own = x.shape[1:]
    if event_dim is None:
        missing = plates - len(own)
    elif event_dim > len(own):
        raise InvalidArgument(
            f"bayesianize: event_dim={event_dim}, but the network's output has {len(own)} "
            "dimensions"
        )
    else:
        missing = plates - (len(own) - event_dim)
    return x.reshape(*kept, *(1,) * max(missing, 0), *own)


class Once:
    """Gives each warning once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, category: type[Warning], message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, category, stacklevel=4)
