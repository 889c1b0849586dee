"""Variational simulation-based calibration: does the fit find what the data were simulated from?

Where Pareto k̂ speaks of all latents together, this speaks of each alone, and of the whole way from
data to guide: model, family, objective and optimizer.

References:
    :cite:p:`yao2018vi`
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.diagnostics.certificate import check_level
from pyro_dsvi.diagnostics.simulated_calibration import SimulatedCalibration
from pyro_dsvi.diagnostics.undisturbed import undisturbed
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators import Pathwise
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.passes.execute import Executor
from pyro_dsvi.passes.particles import Particles
from pyro_dsvi.strategy import Choice

Data = Mapping[str, Tensor]
Program = Callable[..., Any]


def vsbc(
    model: Program,
    fit: Callable[[Program, Data], Program],
    *args: Any,
    num_simulations: int = 100,
    num_samples: int = 200,
    seed: int = 0,
    level: float = 0.01,
    **kwargs: Any,
) -> SimulatedCalibration:
    """Simulate data from the model again and again, fit each, and see where the truth lies.

    Every simulation draws the latents from their priors and the observed sites from their
    distributions; what is not sampled, as covariates, stays.  Generators, the param store and
    gradients are afterwards as they were before, after each simulation too: every fit starts from
    the same state.

    Args:
        model: a model whose latents and observed sites can all be sampled.
        fit: trains a guide: takes the model, which observes the simulated data in the place of the
            user's, and these data by site; returns the guide.
        args: positional arguments of model and guide.
        num_simulations: data sets to simulate.
        num_samples: draws of each guide.
        seed: what all is drawn from.
        level: probability of calling any element of a guide without lean biased.
        kwargs: keyword arguments of model and guide.

    Returns:
        A report; prints as a table.

    Raises:
        InvalidArgument: if an argument cannot work, or a site cannot be sampled.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def fit(model, data):  # the posterior, but twice as narrow
        ...     return lambda: pyro.sample("z", dist.Normal(data["x"] / 2, 0.35))
        >>> found = dsvi.diagnostics.vsbc(model, fit, num_simulations=60)
        >>> found.verdicts
        ('too narrow',)
    """
    if num_simulations < 20 or num_samples < 20:
        raise InvalidArgument(
            "vsbc: num_simulations and num_samples must be at least 20, got "
            f"{num_simulations} and {num_samples}"
        )
    check_level(level)
    rows: list[dict[str, np.ndarray]] = []
    for number in range(num_simulations):
        with undisturbed(model):
            pyro.set_rng_seed(seed + number)
            rows.append(_simulation(model, fit, args, kwargs, num_samples))
    sites = rows[0].keys()
    if any(row.keys() != sites for row in rows):
        raise InvalidArgument("vsbc: simulations do not all have the same latents")
    names = [n for site in sites for n in _names(site, rows[0][site].size)]
    probabilities = np.stack([np.concatenate([row[site] for site in sites]) for row in rows])
    return SimulatedCalibration(tuple(names), probabilities, num_samples, level)


def _simulation(
    model: Program, fit: Callable[[Program, Data], Program], args, kwargs, num_samples: int
) -> dict[str, np.ndarray]:
    """Pr_q(z < θ) by site."""
    with torch.no_grad(), _Simulate() as truth:
        model(*args, **kwargs)
    observing = _Observe(truth.data)(model)
    guide = fit(observing, truth.data)
    if not callable(guide):
        raise InvalidArgument(f"vsbc: fit must return a guide, got {guide!r}")
    drawn = _draws(observing, guide, args, kwargs, num_samples)
    found = {}
    for name, theta in truth.latents.items():
        if name in drawn and theta.numel():
            draws = drawn[name].reshape(num_samples, -1)
            below = (draws < theta.reshape(-1)).double() + (draws == theta.reshape(-1)) / 2
            found[name] = below.mean(0).cpu().numpy()
    if not found:
        raise InvalidArgument("vsbc: the guide draws no latent of the model")
    return found


@torch.no_grad()
def _draws(model: Program, guide: Program, args, kwargs, number: int) -> dict[str, Tensor]:
    """Values of the latents, shape ``[number, ...]``."""
    executor = Executor(model, guide, args, kwargs, _as_pyro_draws, follow=False)
    nesting = Particles(number, None, float("inf")).nesting(
        model, guide, args, kwargs, lambda kind, message: None
    )
    if nesting is None:
        runs = [executor.one(k, number) for k in range(number)]
    else:
        runs = [executor.side_by_side(range(number), number, nesting)]
    values = {}
    for name, msg in runs[0].model.sites.items():
        if not msg["is_observed"]:
            each = torch.stack([run.model.sites[name]["value"] for run in runs])
            values[name] = each if nesting is None else each[0]
    return {name: _spread(value, number) for name, value in values.items()}


def _spread(value: Tensor, number: int) -> Tensor:
    """A row for each draw, where a point mass may have given one for all."""
    return value if len(value) == number else value.expand(number, *value.shape)


def _as_pyro_draws(name: str, q: Any, infer: Mapping[str, Any]) -> Choice:
    return Choice(Pathwise(), "drawn")


def _names(site: str, size: int) -> list[str]:
    return [site] if size == 1 else [f"{site}[{i}]" for i in range(size)]


def _is_data(msg: Any) -> bool:
    fixed = msg["infer"].get("_deterministic") or isinstance(innermost(msg["fn"]), dist.Delta)
    return msg["is_observed"] and not fixed and not site_is_subsample(msg)


class _Simulate(Messenger):
    """Draws every observed site, and notes what was drawn.

    Attributes:
        latents: values of the latents by site.
        data: values of the observed sites.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latents: dict[str, Tensor] = {}
        self.data: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            size, part = msg["fn"].size, msg["fn"].subsample_size
            if part is not None and part < size:
                raise InvalidArgument(
                    f"vsbc: plate {msg['name']!r} takes {part} of {size} elements; simulate whole "
                    "data sets, without subsample_size"
                )
            return
        if isinstance(innermost(msg["fn"]), dist.Unit):
            raise InvalidArgument(
                f"vsbc: site {msg['name']!r} is a factor, from which no data can be simulated; "
                "write it as an observed sample site"
            )
        if _is_data(msg):
            msg["value"] = _sampled(msg)
            self.data[msg["name"]] = msg["value"]
        elif not msg["is_observed"] and msg["value"] is None:
            msg["value"], msg["done"] = _sampled(msg), True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            self.latents[msg["name"]] = msg["value"]


def _sampled(msg: Any) -> Tensor:
    try:
        return msg["fn"].sample()
    except NotImplementedError as error:
        raise InvalidArgument(
            f"vsbc: site {msg['name']!r}: {type(msg['fn']).__name__} cannot be sampled; give it a "
            "proper prior"
        ) from error


class _Observe(Messenger):
    """Puts simulated data in the place of the user's."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.data = data

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.data and _is_data(msg):
            msg["value"] = self.data[msg["name"]]
