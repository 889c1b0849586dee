"""What the fit predicts along an input: bands of the predictive distribution over the data."""

from typing import Any

import numpy as np

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.figures.canvas import BLUE, new_figure, plain

_BANDS = ((0.94, 0.2), (0.5, 0.4))  # probability, opacity


def plot_predictive(
    idata: Any,
    x: Any,
    *,
    var_name: str | None = None,
    group: str = "posterior_predictive",
    data: tuple[Any, Any] | None = None,
    xlabel: str = "x",
    ylabel: str | None = None,
) -> Any:
    """The predictive median, its central 50 % and 94 % bands, and the observations.

    Args:
        idata: from :func:`pyro_dsvi.to_arviz`.
        x: input of each predicted element, as many as there are.
        var_name: the predicted variable, where there are several.
        group: ``"posterior_predictive"``, ``"predictions"`` or ``"prior_predictive"``.
        data: inputs and outputs of the points to draw; None for ``observed_data`` at ``x``, where
            it is as long.
        xlabel: what x is, with its unit.
        ylabel: what is predicted, with its unit; None for the variable's name.

    Returns:
        A matplotlib figure.

    Raises:
        InvalidArgument: if there is no such group, variable or number of inputs.
    """
    name, draws = _draws(idata, group, var_name)
    x = np.asarray(x).reshape(-1)
    if len(x) != draws.shape[1]:
        raise InvalidArgument(
            f"plot_predictive: {draws.shape[1]} elements of {name!r} are predicted, got {len(x)} "
            "inputs"
        )
    points = data if data is not None else _observed(idata, name, x)
    order = np.argsort(x, kind="stable")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for probability, opacity in _BANDS:
        tail = (1 - probability) / 2
        low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
        axes.fill_between(
            x[order],
            low[order],
            high[order],
            color=BLUE,
            alpha=opacity,
            linewidth=0,
            label=f"{probability:.0%} of draws",
        )
    axes.plot(x[order], np.median(draws, 0)[order], color=BLUE, linewidth=1.8, label="median")
    if points is not None:
        at, values = (np.asarray(p).reshape(-1) for p in points)
        axes.plot(at, values, "o", color="black", markersize=3.5, label="data")
    axes.set(xlabel=xlabel, ylabel=name if ylabel is None else ylabel)
    plain(axes)
    figure.legend(*_backwards(axes), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draws(idata: Any, group: str, var_name: str | None) -> tuple[str, np.ndarray]:
    """Name and draws of the predicted variable, ``[draws, elements]``."""
    try:
        found = idata[group].data_vars
    except KeyError as error:
        raise InvalidArgument(f"plot_predictive: there is no group {group!r}") from error
    if var_name is None and len(found) != 1:
        raise InvalidArgument(
            f"plot_predictive: {group!r} has the variables {list(found)}; pass var_name="
        )
    name = next(iter(found)) if var_name is None else var_name
    if name not in found:
        raise InvalidArgument(f"plot_predictive: {group!r} has no variable {name!r}")
    draws = np.asarray(found[name])
    return str(name), draws.reshape(draws.shape[0] * draws.shape[1], -1)


def _observed(idata: Any, name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        values = np.asarray(idata["observed_data"][name]).reshape(-1)
    except KeyError:
        return None
    return (x, values) if len(values) == len(x) else None


def _backwards(axes: Any) -> tuple[list[Any], list[str]]:
    """The legend's entries, data first."""
    handles, labels = axes.get_legend_handles_labels()
    return handles[::-1], labels[::-1]
