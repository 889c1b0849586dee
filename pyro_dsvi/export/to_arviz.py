"""A fitted model and guide, or a model and its samples, as arviz's groups."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dsvi.errors import DSVIWarning, InvalidArgument, check_whole
from pyro_dsvi.export import collect
from pyro_dsvi.export.draws import ChainDraws, GuideDraws, Source
from pyro_dsvi.export.groups import SAMPLE_DIMS, Labelled, group, inference_data
from pyro_dsvi.export.names import Names, refuse_unknown
from pyro_dsvi.export.replay import Improper
from pyro_dsvi.export.sites import Kind, Site

Coords = Mapping[str, Iterable[Any]]
_DRAWS = 1000
_AT_ONCE = 250


def to_arviz(
    model: Callable[..., Any],
    guide: Any,
    *args: Any,
    num_samples: int | None = None,
    predictions: Sequence[Any] | Mapping[str, Any] | None = None,
    prior: bool = True,
    coords: Coords | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    prediction_coords: Coords | None = None,
    chunk_size: int = _AT_ONCE,
    **kwargs: Any,
) -> Any:
    """Export a posterior to arviz: ``InferenceData`` before arviz 1, ``DataTree`` since.

    See :func:`export_groups` for the arguments, the groups and the errors.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(y):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("person", len(y)):
        ...         pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> def guide(y):
        ...     loc = pyro.param("loc", torch.tensor(0.3))
        ...     pyro.sample("mu", dist.Normal(loc, 0.5))
        >>> idata = dsvi.to_arviz(model, guide, torch.tensor([0.2, 0.9, -0.1]), num_samples=100)
        >>> idata.posterior["mu"].sizes
        Frozen({'chain': 1, 'draw': 100})
        >>> idata.log_likelihood["y"].dims
        ('chain', 'draw', 'person')
    """
    return inference_data(
        export_groups(
            model,
            guide,
            *args,
            num_samples=num_samples,
            predictions=predictions,
            prior=prior,
            coords=coords,
            dims=dims,
            constant_data=constant_data,
            prediction_coords=prediction_coords,
            chunk_size=chunk_size,
            **kwargs,
        )
    )


def export_groups(
    model: Callable[..., Any],
    guide: Any,
    *args: Any,
    num_samples: int | None = None,
    predictions: Sequence[Any] | Mapping[str, Any] | None = None,
    prior: bool = True,
    coords: Coords | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    prediction_coords: Coords | None = None,
    chunk_size: int = _AT_ONCE,
    **kwargs: Any,
) -> dict[str, dict[str, Any]]:
    """The groups that :func:`to_arviz` hands to arviz, as one dictionary of numpy arrays.

    ``posterior`` has the latents and ``pyro.deterministic`` sites, ``sample_stats`` the log joint
    density ``lp`` and the guide's log density ``log_q`` in nats, ``log_likelihood`` that of each
    observed element given the latents, neither scaled nor subsampled, with masked elements at 0.
    A plate's dimension has the plate's name (``{plate}_plate`` where a variable has it).

    Args:
        model: the model.
        guide: the guide; or samples of ``model``, as a ``pyro.infer.MCMC`` object after its run or
            a mapping from site to ``[draws, *site]``.
        args: positional arguments of both programs: all data, no minibatch.
        num_samples: draws of the guide (None: 1000) in one chain; of samples, all are taken.
        predictions: arguments of both programs for other data, positional ones in a tuple or
            keyword ones in a mapping; observations in them are not looked at.  Latents in no plate
            keep their draws; the guide draws the others for these data, and of samples those are
            kept whose shape fits.
        prior: whether to add ``prior`` and ``prior_predictive``.
        coords: labels by dimension; a dimension without is numbered.
        dims: names of dimensions by variable: those of its event, or all.
        constant_data: what the model was given besides the observations, by name.
        prediction_coords: labels by dimension, for the predictions alone.  They have those of
            ``coords`` only where no observation lives in the dimension.
        chunk_size: draws that are run side by side, where the programs broadcast.
        kwargs: keyword arguments of both programs.

    Returns:
        The groups, in the form that :mod:`pyro_dsvi.export.groups` shows.

    Raises:
        InvalidArgument: if an argument cannot work.
        IncompatibleSite: if a plate holds a minibatch, or a latent is left to enumeration.
        SiteMismatch: if model, guide and data do not fit together.
    """
    source, is_guide = _source(model, guide, args, kwargs, num_samples)
    check_whole("chunk_size", chunk_size, 1)
    constants = {name: _numpy(value) for name, value in (constant_data or {}).items()}
    names = Names(dims, {*source.sites, *constants})
    new = None
    if predictions is not None:
        new = collect.NewData(source, guide if is_guide else None, *_arguments(predictions))
    coords, prediction_coords = dict(coords or {}), dict(prediction_coords or {})
    refuse_unknown("coords", coords, _dims(names, source.sites.values(), constants))
    kept = collect.posterior(source, int(chunk_size), new)

    writer = _Writer(names, coords, source.chains)
    writer.draws("posterior", kept, source.sites)
    writer.draws("posterior_predictive", kept, source.sites)
    if new is not None:
        lived_in = {d for n in new.observations for d in names.of_plates(source.sites[n])}
        labels = {d: c for d, c in coords.items() if d not in lived_in} | prediction_coords
        refuse_unknown("prediction_coords", prediction_coords, _dims(names, new.sites.values(), {}))
        writer.draws("predictions", kept, new.sites, coords=labels)
    writer.draws("sample_stats", kept, {})
    writer.draws("log_likelihood", kept, source.sites, event=False)
    if prior:
        _add_prior(writer, source, int(chunk_size))
    writer.observed(source)
    writer.constants(constants)
    return writer.groups


def _source(
    model: Any, guide: Any, args: tuple, kwargs: Mapping[str, Any], number: int | None
) -> tuple[Any, bool]:
    """Where the draws come from, and whether that is a guide."""
    samples: Mapping[str, Tensor] | None = None
    if isinstance(guide, Mapping):
        samples = {name: torch.as_tensor(value).unsqueeze(0) for name, value in guide.items()}
    elif hasattr(guide, "get_samples"):
        samples = guide.get_samples(group_by_chain=True)
    if samples is not None:
        if number is not None:
            raise InvalidArgument(
                f"num_samples={number} with samples, all of which are exported; thin them before"
            )
        return ChainDraws(model, samples, args, kwargs), False
    if not callable(guide):
        raise InvalidArgument(
            f"expected a guide, an MCMC object or a mapping of samples, got {guide!r}"
        )
    number = _DRAWS if number is None else number
    check_whole("num_samples", number, 1)
    return GuideDraws(model, guide, args, kwargs, int(number)), True


def _arguments(predictions: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(predictions, Mapping):
        return (), predictions
    if isinstance(predictions, tuple | list):
        return tuple(predictions), {}
    raise InvalidArgument(
        "predictions: expected a tuple of positional arguments or a mapping of keyword arguments, "
        f"got {type(predictions).__name__}; e.g. predictions=(x_new,)"
    )


def _dims(names: Names, sites: Iterable[Site], constants: Mapping[str, np.ndarray]) -> set[str]:
    dims = {dim for site in sites for dim in names.of_site(site)}
    return dims | {d for name, x in constants.items() for d in names.of_array(name, x.ndim)}


def _add_prior(writer: "_Writer", source: Source, size: int) -> None:
    try:
        kept = collect.prior(source, source.number, size)
    except (Improper, ValueError) as error:
        what = str(error).splitlines()[0]
        warnings.warn(
            f"the groups prior and prior_predictive are left out: {what}; pass prior=False to "
            "leave them out in silence",
            DSVIWarning,
            stacklevel=4,
        )
        return
    writer.draws("prior", kept, source.sites, chains=1)
    writer.draws("prior_predictive", kept, source.sites, chains=1)


class _Writer:
    """Turns what was collected into named numpy arrays, group by group."""

    def __init__(self, names: Names, coords: Coords, chains: int) -> None:
        self.names = names
        self.coords = coords
        self.chains = chains
        self.groups: dict[str, dict[str, Any]] = {}
        self.attrs = {"inference_library": "pyro_dsvi", "inference_library_version": _version()}

    def draws(
        self,
        group_name: str,
        kept: collect.Collected,
        sites: Mapping[str, Site],
        *,
        event: bool = True,
        coords: Coords | None = None,
        chains: int | None = None,
    ) -> None:
        """Write a group whose variables begin with chain and draw, if it has any."""
        variables = {}
        for name, values in kept.joined(group_name).items():
            x = _numpy(values.reshape(chains or self.chains, -1, *values.shape[1:]))
            site = sites.get(name)
            dims = () if site is None else self.names.of_plates(site)
            if event and site is not None:
                dims = self.names.of_site(site)
            variables[name] = Labelled((*SAMPLE_DIMS, *dims), x)
        self._add(group_name, variables, self.coords if coords is None else coords)

    def observed(self, source: Source) -> None:
        """Write the data."""
        variables = {
            name: Labelled(self.names.of_site(source.sites[name]), _numpy(value))
            for name, value in source.data.items()
            if source.sites[name].kind is Kind.OBSERVED
        }
        self._add("observed_data", variables, self.coords)

    def constants(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what the model was given besides."""
        variables = {n: Labelled(self.names.of_array(n, x.ndim), x) for n, x in arrays.items()}
        self._add("constant_data", variables, self.coords)

    def _add(self, name: str, variables: Mapping[str, Labelled], coords: Coords) -> None:
        if variables:
            self.groups[name] = group(variables, coords, self.attrs)


def _numpy(value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    return value.numpy()


def _version() -> str:
    try:
        return version("pyro-dsvi")
    except PackageNotFoundError:
        return "unknown"
