"""An exported posterior is one dictionary of numpy arrays, and both lines of arviz read it.

Its keys are arviz's groups.  Each group is in the form of ``xarray.Dataset.to_dict``::

    {
        "posterior": {
            "attrs": {"inference_library": "pyro_dsvi", ...},
            "coords": {"chain": {"dims": ("chain",), "data": array([0])}, ...},
            "data_vars": {"theta": {"dims": ("chain", "draw", "school"), "data": array(...)}, ...},
        },
        "observed_data": {...},
    }

``data`` is always a numpy array, in the order of ``dims``.  Groups of draws begin with ``chain``
and ``draw``, in that order; a guide's draws are one chain.  Every dimension has a coordinate.  This
module needs neither torch nor Pyro.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from pyro_dsvi.errors import InvalidArgument

Groups = Mapping[str, Mapping[str, Any]]
SAMPLE_DIMS = ("chain", "draw")


@dataclass(frozen=True, eq=False)
class Labelled:
    """An array and the names of its dimensions.

    Attributes:
        dims: a name for each dimension.
        data: the array.
    """

    dims: tuple[str, ...]
    data: np.ndarray


def group(
    variables: Mapping[str, Labelled],
    coords: Mapping[str, Iterable[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One group, in the form that the module's docstring shows.

    Args:
        variables: its arrays by name.
        coords: labels of dimensions; those that the group does not have are left out, and a
            dimension without labels is numbered from 0.
        attrs: what is to be said of the group.

    Raises:
        InvalidArgument: if a dimension has two lengths, or another number of labels than its
            length, or a variable has one dimension twice.

    Example:
        >>> import numpy as np
        >>> theta = Labelled(("chain", "draw", "school"), np.zeros((1, 100, 2)))
        >>> made = group({"theta": theta}, {"school": ["Choate", "Deerfield"]})
        >>> made["coords"]["school"]["data"].tolist()
        ['Choate', 'Deerfield']
    """
    sizes: dict[str, int] = {}
    for name, variable in variables.items():
        if len(set(variable.dims)) < len(variable.dims):
            raise InvalidArgument(
                f"{name!r}: dimensions {variable.dims} name one twice; give each a name of its own"
            )
        for dim, size in zip(variable.dims, variable.data.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise InvalidArgument(
                    f"{name!r}: dimension {dim!r} has length {size} here and {sizes[dim]} "
                    "elsewhere in its group; name one of them otherwise, by dims=..."
                )
    labels = {dim: _labels(dim, size, coords or {}) for dim, size in sizes.items()}
    return {
        "attrs": dict(attrs or {}),
        "coords": {dim: {"dims": (dim,), "data": data} for dim, data in labels.items()},
        "data_vars": {n: {"dims": v.dims, "data": v.data} for n, v in variables.items()},
    }


def _labels(dim: str, size: int, coords: Mapping[str, Iterable[Any]]) -> np.ndarray:
    if dim not in coords:
        return np.arange(size)
    labels = np.asarray(coords[dim])
    if labels.shape != (size,):
        raise InvalidArgument(
            f"coords[{dim!r}]: {size} labels are needed, got an array of shape {labels.shape}"
        )
    return labels


def inference_data(groups: Groups) -> Any:
    """What the installed arviz works on: ``InferenceData`` before arviz 1, ``DataTree`` since.

    Args:
        groups: a dictionary in the form that the module's docstring shows.
    """
    import xarray as xr

    datasets: dict[str, Any] = {n: xr.Dataset.from_dict(dict(g)) for n, g in groups.items()}
    if arviz_series() >= 1:
        return xr.DataTree.from_dict(datasets)
    import arviz as az

    return az.InferenceData(**datasets)


def arviz_series() -> int:
    """The first number of the installed arviz's version."""
    return int(version("arviz").split(".")[0])
