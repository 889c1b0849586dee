"""Find out, once, whether a program keeps the values of an enumerated site apart.

A program that broadcasts computes, along the site's dimension, what it would compute at each value
by itself.  One that sums over all elements of a tensor, say, mixes the values without an error.  So
the ordinary programs are run at some of the joint values, and every log density must come out as
it did when the supports were taken whole.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.messages import enumerated_dims, number_of
from pyro_dsvi.passes.probe import aside, run_at
from pyro_dsvi.passes.record import Record

_TRIED = 2  # joint values
_NONE: Mapping[int, int] = {}
_Records = tuple[Record, Record]


def refuse_mixing(
    records: _Records,
    nesting: int | None,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse programs that compute something else where a support is taken as a whole.

    Args:
        records: what guide and model did with whole supports.
        nesting: plate dimensions to the right of the particles' plate; None if they have none.
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.

    Raises:
        IncompatibleSite: if the log density of a site has changed.
    """
    sizes = {}
    for record in records:
        for msg in record.sites.values():
            number = number_of(msg)
            if number is not None:
                sizes[number] = msg["value"].shape[msg["infer"]["_enumerate_dim"] - _event(msg)]
    with aside():
        for turn in range(_TRIED):
            # Some of each: the last value of every site, then values that differ among them.
            index = {n: size - 1 if turn == 0 else n % size for n, size in sizes.items()}
            values = {}
            for record in records:
                values.update((n, msg["value"]) for n, msg in record.subsamples.items())
                for name, msg in record.sites.items():
                    if not msg["is_observed"]:
                        values[name] = _at(msg["value"], msg, index, nesting, _event(msg))
            singles = run_at(model, guide, args, kwargs, values)
            changed = _changed(records, singles, index, nesting)
            if changed is None:
                continue
            again = run_at(model, guide, args, kwargs, values)
            if _changed(singles, again) is None:  # else chance is at work within the programs
                raise _mixed(changed, records)


def _changed(
    records: _Records, singles: _Records, index: Mapping[int, int] = _NONE, nesting: Any = None
) -> str | None:
    """The first site whose log density differs, at the same values."""
    for record, single in zip(records, singles, strict=True):
        for name, msg in record.sites.items():
            if name not in single.sites:
                continue
            ours = _at(msg["fn"].log_prob(msg["value"]), msg, index, nesting, 0)
            theirs = single.sites[name]["fn"].log_prob(single.sites[name]["value"])
            ours, theirs = torch.broadcast_tensors(ours, theirs)
            if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
                return name
    return None


def _mixed(site: str, records: _Records) -> IncompatibleSite:
    names = {n for r in records for n, msg in r.sites.items() if number_of(msg) is not None}
    return IncompatibleSite(
        f"site {site!r}: its log density is another when {', '.join(map(repr, sorted(names)))} "
        "takes its whole support at once, so the program mixes values that belong apart (by a sum "
        "over all elements of a tensor, say); write it so that it broadcasts over dimensions on "
        "the left, or use dsvi.estimators.ScoreFunction() there"
    )


def _at(
    x: Tensor, msg: Any, index: Mapping[int, int], nesting: int | None, event_dim: int
) -> Tensor:
    """A site's tensor at one joint value of the enumerated sites, and at the first particle."""
    where = {dim: index[number] for dim, number in enumerated_dims(msg).items() if number in index}
    if nesting is not None:
        where[-1 - nesting] = 0
    for dim, i in where.items():
        dim -= event_dim
        if x.dim() >= -dim and x.shape[dim] > 1:
            x = x.narrow(dim, i, 1)
    return x


def _event(msg: Any) -> int:
    return getattr(msg["fn"], "event_dim", 0)
