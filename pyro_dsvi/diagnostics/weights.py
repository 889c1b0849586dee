"""The report on a guide's importance weights."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pyro_dsvi.diagnostics.pareto import Smoothed, meaning, smooth, threshold
from pyro_dsvi.diagnostics.tables import aligned, as_html


@dataclass(frozen=True, eq=False)
class WeightGroup:
    """Importance weights of latents that are weighed together.

    They are weighed per element of the plates that all their terms share, as the data of an
    autoencoder are, and jointly otherwise.

    Attributes:
        sites: names of the latents.
        plates: names of the plates whose elements have weights of their own.
        log_w: log p(x, z) - log q(z) in nats, shape ``[S, *plates]``.
        weight: factor by which subsampling multiplies the elements' sum.
    """

    sites: tuple[str, ...]
    plates: tuple[str, ...]
    log_w: np.ndarray
    weight: float

    @cached_property
    def smoothed(self) -> Smoothed:
        """Smoothed weights, a row for each element."""
        return smooth(self.log_w.reshape(len(self.log_w), -1).T)

    @property
    def pareto_k(self) -> np.ndarray:
        """Pareto k̂ by element, shape ``[*plates]``."""
        return self.smoothed.pareto_k.reshape(self.log_w.shape[1:])

    @property
    def effective_sample_size(self) -> np.ndarray:
        """Of the smoothed weights by element, shape ``[*plates]``."""
        return self.smoothed.effective.reshape(self.log_w.shape[1:])

    @property
    def log_evidence(self) -> np.ndarray:
        """Log of the smoothed weights' mean by element, in nats, shape ``[*plates]``."""
        return self.smoothed.log_mean.reshape(self.log_w.shape[1:])

    @property
    def bound(self) -> np.ndarray:
        """Mean log weight by element, the ELBO, in nats, shape ``[*plates]``."""
        return self.log_w.mean(0)

    @property
    def worst(self) -> float:
        """The largest k̂; NaN only where none could be fitted."""
        k = self.pareto_k
        return float(np.nanmax(k)) if np.isfinite(k).any() or np.isinf(k).any() else math.nan

    @property
    def name(self) -> str:
        """Its latents and plates, in words."""
        sites = ", ".join(self.sites)
        return f"{sites}, per element of {', '.join(self.plates)}" if self.plates else sites


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """The outcome of :func:`importance_weights`; prints as a table, plots, goes to pandas.

    Attributes:
        groups: the latents that are weighed together, each with its weights.
        constant: terms of the evidence that no latent reaches, in nats.
        num_samples: S, draws of the guide.
    """

    groups: tuple[WeightGroup, ...]
    constant: float
    num_samples: int

    @property
    def threshold(self) -> float:
        """The k̂ above which estimates from S draws are not reliable."""
        return threshold(self.num_samples)

    @property
    def pareto_k(self) -> float:
        """The largest k̂ of all."""
        known = [group.worst for group in self.groups if not math.isnan(group.worst)]
        return max(known, default=math.nan)

    @property
    def reliable(self) -> bool:
        """Whether no k̂ is above the threshold."""
        return not self.pareto_k >= self.threshold

    @property
    def bound(self) -> float:
        """The ELBO, in nats."""
        return self._total("bound")

    @property
    def log_evidence(self) -> float:
        """The corrected evidence, log p(x) as the smoothed weights have it, in nats."""
        return self._total("log_evidence")

    @property
    def standard_error(self) -> float:
        """Of the corrected evidence, in nats; means nothing where the weights are not reliable."""
        errors = (group.weight * group.smoothed.standard_error for group in self.groups)
        return math.sqrt(sum(float((error**2).sum()) for error in errors))

    @property
    def gap(self) -> float:
        """What the bound falls short of the evidence by: KL from guide to posterior, in nats."""
        return self.log_evidence - self.bound

    def __getitem__(self, site: str) -> WeightGroup:
        for group in self.groups:
            if site in group.sites:
                return group
        raise KeyError(site)

    def table(self) -> list[dict[str, Any]]:
        """One record for each group."""
        return [_record(group, self.threshold) for group in self.groups]

    def to_pandas(self) -> Any:
        """One row for each element of each group, as a ``pandas.DataFrame``."""
        import pandas as pd

        frames = []
        for group in self.groups:
            columns = {
                "pareto k": group.pareto_k.ravel(),
                "effective sample size": group.effective_sample_size.ravel(),
                "bound": group.bound.ravel(),
                "log evidence": group.log_evidence.ravel(),
            }
            frame = pd.DataFrame(columns)
            frame.insert(0, "sites", ", ".join(group.sites))
            frame.index.name = "element"
            frames.append(frame.reset_index().set_index(["sites", "element"]))
        return pd.concat(frames)

    def plot(self) -> Any:
        """k̂ by element beside the thresholds, and the tail of the weights: a figure."""
        from pyro_dsvi.diagnostics.figures import draw_weights

        return draw_weights(self)

    @property
    def advice(self) -> str:
        """What the values mean, in plain words."""
        said = f"k = {self.pareto_k:.2f}: {meaning(self.pareto_k, self.num_samples)}"
        worst = max(self.groups, key=lambda g: -math.inf if math.isnan(g.worst) else g.worst)
        if not self.reliable and not worst.plates:
            said += (
                ".  It speaks of all latents drawn together, and the more there are, the stricter "
                "it is: single posterior means may be near all the same, which vsbc tells"
            )
        elif not self.reliable:
            bad = float((worst.pareto_k >= self.threshold).mean())
            said += f".  It is the worst of the elements; {bad:.1%} of them are above the threshold"
        return said

    def __str__(self) -> str:
        lines = [*self._head(), "", *aligned(self._cells()), "", self.advice]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        told = (*self._head(), self.advice)
        return "".join(f"<div>{line}</div>" for line in told) + as_html(self._cells())

    def _head(self) -> list[str]:
        return [
            f"importance weights of {self.num_samples} draws; k is to stay below "
            f"{self.threshold:.2f}",
            f"ELBO {self.bound:.6g} nats; corrected evidence {self.log_evidence:.6g} nats "
            f"(standard error {self.standard_error:.2g}); gap {self.gap:.3g} nats",
        ]

    def _cells(self) -> list[list[str]]:
        rows = [["latents", "weights", "worst k", "median k", "k too large", "least ESS"]]
        for record in self.table():
            numbers = [f"{record['worst k']:.2f}", f"{record['median k']:.2f}"]
            numbers += [f"{record['k too large']:.1%}", f"{record['least ESS']:.1f}"]
            rows.append([record["latents"], str(record["weights"]), *numbers])
        return rows

    def _total(self, part: str) -> float:
        sums = (group.weight * float(getattr(group, part).sum()) for group in self.groups)
        return self.constant + sum(sums)


def _record(group: WeightGroup, limit: float) -> dict[str, Any]:
    k = group.pareto_k
    known = k[~np.isnan(k)]
    return {
        "latents": group.name,
        "weights": k.size,
        "worst k": group.worst,
        "median k": float(np.median(known)) if known.size else math.nan,
        "k too large": float((known >= limit).mean()) if known.size else math.nan,
        "least ESS": float(group.effective_sample_size.min()),
    }
