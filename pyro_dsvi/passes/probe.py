"""Find out, once and without a trace, whether a program broadcasts over particles.

The program is run in the ordinary way, then with a few particles side by side; each particle's
values are then given back to the ordinary program, and every log density must come out the same.
The random state is put back afterwards, and outer handlers see nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.util import get_rng_state, set_rng_state

from pyro_dsvi.errors import DSVIError
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.score import not_in_guide
from pyro_dsvi.strategy import is_marked

_TRIED = 3  # particles in the trial
_Records = tuple[Record, Record]


class _Given(Record):
    """Records a run at given values, in the shape that the site wants.

    Args:
        values: values by site.
        complete: whether every latent must be given.
    """

    def __init__(self, values: Mapping[str, torch.Tensor], complete: bool = False) -> None:
        super().__init__(None)
        self.values = values
        self.complete = complete

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        value = self.values.get(msg["name"])
        if value is not None and not msg["is_observed"]:
            shape = getattr(msg["fn"], "shape", None)
            if shape is not None:
                value = _fitted(value, torch.Size(shape()))
            msg["value"], msg["done"] = value, True
        elif self.complete and not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            _refuse_unmarked(msg)


def _refuse_unmarked(msg: Any) -> None:
    if not is_marked(msg["infer"]):
        raise not_in_guide(msg["name"])


def _fitted(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if value.numel() == shape.numel():
        return value.reshape(shape)
    while value.dim() > len(shape) and len(value) == 1:
        value = value.squeeze(0)
    try:
        return value.expand(shape)
    except RuntimeError:  # for the site to be refused by name
        return value


def nesting_of(model: Callable, guide: Callable, args: tuple, kwargs: Mapping) -> int:
    """Number of plate dimensions of the programs, found by running them once."""
    with aside():
        guide_run, model_run = run_at(model, guide, args, kwargs, {})
    return _nesting(guide_run, model_run)


def objection_to_broadcasting(
    model: Callable, guide: Callable, args: tuple, kwargs: Mapping, nesting: int
) -> str | None:
    """Why the programs cannot be run for many particles side by side; None if they can.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        nesting: plate dimensions of the programs.
    """
    with aside():
        plate = pyro.plate(PARTICLES, _TRIED, dim=-1 - nesting)
        try:
            guide_run, model_run = run_at(plate(model), plate(guide), args, kwargs, {})
            for k in range(_TRIED):
                values = {**_particle(model_run, nesting, k), **_particle(guide_run, nesting, k)}
                singles = run_at(model, guide, args, kwargs, values)
                for many, single in zip((guide_run, model_run), singles, strict=True):
                    found = _difference(many, single, nesting, k)
                    if found is not None:
                        return found
        except DSVIError:
            raise
        except Exception as error:  # whatever a program may raise that was not written for this
            first_line = (str(error).splitlines() or [""])[0]
            return f"with particles side by side it raises {type(error).__name__}: {first_line}"
    return None


class aside:  # noqa: N801 - used as a function, as torch.no_grad is
    """Out of sight of outer handlers, without gradients, the random state restored at the end."""

    def __enter__(self) -> None:
        self._rng = get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        self._block, self._no_grad = poutine.block(), torch.no_grad()
        self._block.__enter__()
        self._no_grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._no_grad.__exit__(*error)
        self._block.__exit__(*error)
        set_rng_state(self._rng)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)


def run_at(model, guide, args, kwargs, values: Mapping[str, torch.Tensor]) -> _Records:
    """Run guide and model at the given values, where there are any, and else as they come."""
    guide_run = _Given(values)
    with guide_run:
        guide(*args, **kwargs)
    drawn = {n: m["value"] for n, m in {**guide_run.sites, **guide_run.subsamples}.items()}
    model_run = _Given({**values, **drawn}, complete=True)
    with model_run:
        model(*args, **kwargs)
    return guide_run, model_run


def _nesting(*records: Record) -> int:
    frames = (f for r in records for m in r.sites.values() for f in m["cond_indep_stack"])
    return max((-f.dim for f in frames if f.dim is not None), default=0)


def _particle(record: Record, nesting: int, k: int) -> dict[str, torch.Tensor]:
    """The values of one particle, without the particles' dimension."""
    values = _minibatches(record)
    for name, msg in record.sites.items():
        if not msg["is_observed"]:
            dim = -1 - nesting - getattr(msg["fn"], "event_dim", 0)
            value = msg["value"]
            size = value.shape[dim] if value.dim() >= -dim else 1
            values[name] = value.select(dim, k) if size > 1 else value
    return values


def _minibatches(record: Record) -> dict[str, torch.Tensor]:
    return {name: msg["value"] for name, msg in record.subsamples.items() if name != PARTICLES}


def _difference(many: Record, single: Record, nesting: int, k: int) -> str | None:
    if list(many.sites) != list(single.sites):
        return "it visits other sites when particles are side by side"
    for name, msg in many.sites.items():
        mine = single.sites[name]
        theirs = msg["fn"].log_prob(msg["value"])
        theirs = theirs.select(-1 - nesting, k if theirs.shape[-1 - nesting] > 1 else 0)
        ours = mine["fn"].log_prob(mine["value"]).expand(theirs.shape)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
            return f"the log density of site {name!r} changes when particles are side by side"
    return None
