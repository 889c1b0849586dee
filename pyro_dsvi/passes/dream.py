r"""The sleep pass: the model dreams latents and data, and the guide is scored at the dream.

.. math:: \mathbb{E}_{p_\theta(z, x)}[\log q_\varphi(z \mid x)]

whose gradient in the guide's parameters lowers :math:`\mathrm{KL}(p(z \mid x) \,\|\, q)` on the
model's own data, without importance weights and without bias.  The model is run with its data left
open, the guide with the dreamt data in the place of the given ones.

Where the guide reads its data is found by following the model's: an argument of the programs (or a
member of a list, tuple or dict among them) whose memory is what the model observes, whatever its
shape, is replaced; so are, in an argument with one row for each element of a plate, the rows of the
minibatch.  Anything else takes a function of the user's.

References:
    :cite:p:`hinton1995wake`, :cite:p:`bornschein2015rws`
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions.unit import Unit
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.graph.messages import is_silent, log_density, weighed
from pyro_dsvi.passes.minibatch import prepare_minibatch
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.sample import reuse

Arguments = Callable[..., tuple[Any, ...]]


class Dream(Record):
    """Records the model's run with every observed site drawn anew.

    Args:
        subsamples: messages of the subsampling sites, to see the same minibatch.

    Attributes:
        given: the data that stood at each observed site.
    """

    def __init__(self, subsamples: Mapping[str, Any]) -> None:
        super().__init__(None)
        self.minibatch = subsamples
        self.given: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if site_is_subsample(msg):
            if msg["name"] in self.minibatch:
                reuse(msg, self.minibatch[msg["name"]])
            else:
                prepare_minibatch(msg)
        elif msg["is_observed"] and not is_silent(msg):
            if isinstance(msg["fn"], Unit):
                raise IncompatibleSite(
                    f"site {msg['name']!r}: a factor of the model has no data to dream of; use "
                    "sleep=0"
                )
            self.given[msg["name"]] = msg["value"]
            msg.update(is_observed=False, value=None, done=False)


class Scored(Record):
    """Records the guide's run at dreamt latents.

    Args:
        dream: the dream.
    """

    def __init__(self, dream: Dream) -> None:
        super().__init__(None)
        self.dream = dream

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if name in self.dream.subsamples:
            reuse(msg, self.dream.subsamples[name])
        elif not (msg["is_observed"] or site_is_subsample(msg)):
            if name not in self.dream.sites:
                raise IncompatibleSite(
                    f"site {name!r}: the guide draws it, but the model does not, so that no dream "
                    "says what it was; use sleep=0"
                )
            reuse(msg, self.dream.sites[name])


@dataclass(frozen=True)
class Dreamer:
    """Runs the sleep phase of a pair of programs.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        arguments: gives the guide's positional arguments in a dream, from the dreamt data and the
            minibatch indices by site, and the programs' own arguments; None to find them.
        subsamples: messages of the subsampling sites of the wake phase.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    arguments: Arguments | None = None
    subsamples: Mapping[str, Any] = field(default_factory=dict)

    def log_q(self) -> Tensor:
        """The guide's log density of one dream in nats, scaled as the guide says, a scalar.

        Raises:
            IncompatibleSite: if the model cannot dream, or the dream cannot reach the guide.
        """
        dream = Dream(self.subsamples)
        with torch.no_grad(), dream:
            self.model(*self.args, **self.kwargs)
        args, kwargs = self._dreamt(dream)
        scored = Scored(dream)
        with scored:
            self.guide(*args, **kwargs)
        sites = [msg for msg in scored.sites.values() if not is_silent(msg)]
        total = torch.zeros(())
        for msg in sites:
            total = total + weighed(log_density(msg), msg).sum()
        return total

    def _dreamt(self, dream: Dream) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The guide's arguments in a dream."""
        if self.arguments is not None:
            names = [*dream.given, *dream.subsamples]
            seen = {**dream.sites, **dream.subsamples}
            args = self.arguments({n: seen[n]["value"] for n in names}, *self.args, **self.kwargs)
            if not isinstance(args, tuple):
                raise InvalidArgument(
                    f"dream: expected the guide's positional arguments as a tuple, got "
                    f"{type(args).__name__}"
                )
            return args, self.kwargs
        found = self.args, dict(self.kwargs)
        for name, given in dream.given.items():
            msg = dream.sites[name]
            indices = {
                frame.name: (dream.subsamples[frame.name]["value"], frame.full_size)
                for frame in msg["cond_indep_stack"]
                if frame.name in dream.subsamples
            }
            found, replaced = _put(found, given, msg["value"], indices)
            if not replaced:
                raise IncompatibleSite(
                    f"site {name!r}: what the model observes there is not among the programs' "
                    "arguments, so the dreamt data cannot reach the guide; pass the data as an "
                    "argument of both programs, or say by dream=... what the guide's arguments are"
                )
        return found


def _put(where: Any, given: Tensor, dreamt: Tensor, indices: Mapping[str, Any]) -> tuple[Any, bool]:
    """A nest of arguments with the dreamt data in the place of the given, and whether it was."""
    if isinstance(where, Tensor):
        return _put_into(where, given, dreamt, indices)
    if isinstance(where, dict):
        pairs = {k: _put(v, given, dreamt, indices) for k, v in where.items()}
        return {k: v for k, (v, _) in pairs.items()}, any(r for _, r in pairs.values())
    if type(where) in (list, tuple):
        parts = [_put(part, given, dreamt, indices) for part in where]
        return type(where)(part for part, _ in parts), any(r for _, r in parts)
    return where, False


def _put_into(
    where: Tensor, given: Tensor, dreamt: Tensor, indices: Mapping[str, Any]
) -> tuple[Tensor, bool]:
    if where is given or _same_memory(where, given):
        return dreamt.reshape(where.shape), True
    for index, size in indices.values():
        for dim in range(where.dim()):
            if where.shape[dim] != size or index.numel() == size:
                continue
            rows = where.index_select(dim, index)
            if rows.numel() == given.numel() and torch.equal(rows.reshape(given.shape), given):
                dreamt = dreamt.reshape(rows.shape).to(where.dtype)
                return where.index_copy(dim, index, dreamt), True
    return where, False


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return (
        isinstance(b, Tensor)
        and a.numel() == b.numel()
        and a.data_ptr() == b.data_ptr()
        and a.dtype == b.dtype
        and a.is_contiguous()
        and b.is_contiguous()
    )
