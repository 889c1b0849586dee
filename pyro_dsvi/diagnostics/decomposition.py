r"""The two stochasticities of doubly stochastic inference, apart.

A step's estimate g depends on a minibatch I and on latent draws z.  By the law of total variance

.. math:: \operatorname{Var} g = \underbrace{\mathbb{E}_I \operatorname{Var}_z(g \mid I)}_{latent} +
    \underbrace{\operatorname{Var}_I \mathbb{E}_z(g \mid I)}_{minibatch}

and, with the share :math:`\frac N M L_m` of the m-th of M elements out of a plate's N,

.. math:: \operatorname{Var} \frac N M \sum_m L_m = \underbrace{\frac{N^2}{M}
    \operatorname{Var} L_m}_{O(1/M)} + \underbrace{N^2 \frac{M - 1}{M}
    \operatorname{Cov}(L_i, L_j)}_{O(1)}

Each of Var and Cov has a latent and a minibatch part in turn; the latent covariance is what one
draw for all data leaves, and what local reparameterization takes away.  The share of a cost term c
is :math:`\operatorname{Cov}(g_c, g)`: the shares add up to the variance.

References:
    :cite:p:`titsias2014dsvi`, :cite:p:`kingma2015local`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_dsvi.diagnostics.tables import aligned, as_html


@dataclass(frozen=True)
class Split:
    """A variance or covariance in two parts, in nats² per squared unit of the parameter.

    Attributes:
        latent: mean over minibatches of what the draws bring.
        minibatch: what minibatches bring, the draws being averaged over.
    """

    latent: float
    minibatch: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.latent + self.minibatch

    def times(self, factor: float) -> "Split":
        """Both parts, multiplied."""
        return Split(factor * self.latent, factor * self.minibatch)


@dataclass(frozen=True)
class PlateSplit:
    """The variance and covariance terms across the elements of a plate.

    Attributes:
        size: N, elements in all.
        minibatch: M, elements in a step.
        variance: Var L_m of one element's share, unscaled.
        covariance: Cov(L_i, L_j) of two; zero where a minibatch holds one element.
    """

    size: int
    minibatch: int
    variance: Split
    covariance: Split

    @property
    def independent(self) -> Split:
        """N²/M Var L_m, the O(1/M) term."""
        return self.variance.times(self.size**2 / self.minibatch)

    @property
    def common(self) -> Split:
        """N² (M - 1)/M Cov(L_i, L_j), the O(1) term."""
        return self.covariance.times(self.size**2 * (self.minibatch - 1) / self.minibatch)

    def change(self, minibatch: int) -> float:
        """What the variance would change by in minibatches of another size, all else equal."""
        M, N = self.minibatch, self.size
        slope = self.variance.total - self.covariance.total
        return N**2 * slope * (1 / minibatch - 1 / M) if M > 1 else self._from_one(minibatch)

    def _from_one(self, minibatch: int) -> float:
        # One element shows no covariance of the draws; that of a minibatch without replacement is
        # known, and the draws' is taken for nothing.
        N = self.size
        alone = self.variance.minibatch * N / max(1, N - 1) + self.variance.latent
        return N**2 * alone * (1 / minibatch - 1)


@dataclass(frozen=True)
class Part:
    """The variance of one parameter's gradient, of all of them, or of the bound's value.

    Attributes:
        variance: of a step's estimate, summed over elements.
        standard_error: of its two parts; zero where nothing was left to chance.
        terms: shares of the cost terms by site; empty where the estimate is no sum over them.
        plates: terms across data, by plate.
    """

    variance: Split
    standard_error: Split
    terms: Mapping[str, Split]
    plates: Mapping[str, PlateSplit]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The outcome of :func:`variance_decomposition`; prints as tables, plots, goes to pandas.

    Attributes:
        value: of the bound's estimate, in nats².
        total: of the gradient over all parameters.
        parameters: of each parameter's gradient.
        sites: the same of the parameters that a site's distribution is computed from, by site of
            the guide.
        objective: the objective, in words.
        additive: whether more particles average more of the same.
        particles: K.
        minibatches: how many were looked at.
        draws: how many in each.
        exact: whether all minibatches and all draws in them were visited (or quadrature's nodes).
        notes: what could not be told, and why.
    """

    value: Part
    total: Part
    parameters: Mapping[str, Part]
    sites: Mapping[str, Split]
    objective: str
    additive: bool
    particles: int
    minibatches: int
    draws: float
    exact: bool
    notes: tuple[str, ...] = ()

    def __getitem__(self, parameter: str) -> Part:
        return self.parameters[parameter]

    @property
    def variance_by_site(self) -> dict[str, float]:
        """Variance in nats² of the gradient in the parameters of each site of the guide."""
        return {site: split.total for site, split in self.sites.items()}

    def with_twice_the_particles(self) -> float | None:
        """The gradient's variance with 2 K particles; None where the bound would be another."""
        split = self.total.variance
        return split.latent / 2 + split.minibatch if self.additive else None

    def with_twice_the_minibatch(self) -> tuple[str, float] | None:
        """The plate that gains most from a minibatch twice as large, and the variance then."""
        now = self.total.variance.total
        after = {
            name: now + plate.change(min(2 * plate.minibatch, plate.size))
            for name, plate in self.total.plates.items()
            if plate.minibatch < plate.size
        }
        if not after:
            return None
        name = min(after, key=lambda n: after[n])
        return name, max(0.0, after[name])

    @property
    def advice(self) -> str:
        """More particles or a larger batch, in words; each is taken to double a step's cost."""
        now, split = self.total.variance.total, self.total.variance
        particles, minibatch = self.with_twice_the_particles(), self.with_twice_the_minibatch()
        if not now > 0:
            return "the gradient has no variance here: neither would help"
        said = [f"latent noise makes {split.latent / now:.0%} of the gradient's variance"]
        if particles is not None:
            said.append(f"twice the particles would leave {particles / now:.0%} of it")
        if minibatch is not None:
            name, after = minibatch
            said.append(f"twice the minibatch of plate {name!r} {after / now:.0%}")
        if minibatch is None and self.total.plates:
            said.append("no plate takes a minibatch")
        if minibatch is None:
            better = "more particles, or an estimator of less variance"
        elif particles is None:
            better = "more particles" if split.latent > split.minibatch else "a larger minibatch"
        else:
            better = "more particles" if particles < minibatch[1] else "a larger minibatch"
        return "; ".join(said) + f": prefer {better}"

    def table(self) -> list[dict[str, Any]]:
        """One record for each parameter, and for its terms and plates, and for each site."""
        rows = []
        named = {"bound": self.value, "all": self.total, **self.parameters}
        for parameter, part in named.items():
            rows.append(_record(parameter, "variance", "", part.variance, part.standard_error))
            rows += [_record(parameter, "cost term", n, s) for n, s in part.terms.items()]
            for name, plate in part.plates.items():
                rows.append(_record(parameter, "plate, O(1/M)", name, plate.independent))
                rows.append(_record(parameter, "plate, O(1)", name, plate.common))
        rows += [_record("all", "site", name, split) for name, split in self.sites.items()]
        return rows

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, by parameter, kind and name."""
        import pandas as pd

        return pd.DataFrame(self.table()).set_index(["parameter", "kind", "name"])

    def plot(self) -> Any:
        """Bars of the two stochasticities by cost term, plate and site: a ``matplotlib`` figure."""
        from pyro_dsvi.diagnostics.figures import draw_decomposition

        return draw_decomposition(self)

    def __str__(self) -> str:
        lines = [*self._head(), "", *aligned(self._cells(), left=(0, 1, 2)), ""]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), self.advice])

    def _repr_html_(self) -> str:
        told = (*self._head(), *self.notes, self.advice)
        return "".join(f"<div>{line}</div>" for line in told) + as_html(self._cells())

    def _head(self) -> list[str]:
        draws = "all" if self.draws == float("inf") else f"{self.draws:.0f}"
        how = f"{self.minibatches} minibatches with {draws} draws in each"
        return [
            f"variance of a step of {self.objective}, in nats² per squared unit of the "
            "unconstrained parameters",
            f"from {how}{', exact' if self.exact else ''}",
        ]

    def _cells(self) -> list[list[str]]:
        rows = [["gradient in", "what", "of", "latent", "minibatch", "total"]]
        for row in self.table():
            numbers = [f"{row[key]:.4g}{_error(row, key)}" for key in ("latent", "minibatch")]
            numbers.append(f"{row['total']:.4g}")
            rows.append([row["parameter"], row["kind"], row["name"] or "-", *numbers])
        return rows


def _record(
    parameter: str, kind: str, name: str, split: Split, error: Split | None = None
) -> dict[str, Any]:
    return {
        "parameter": parameter,
        "kind": kind,
        "name": name,
        "latent": split.latent,
        "minibatch": split.minibatch,
        "total": split.total,
        "latent, standard error": error.latent if error else float("nan"),
        "minibatch, standard error": error.minibatch if error else float("nan"),
    }


def _error(row: dict[str, Any], key: str) -> str:
    error = row[f"{key}, standard error"]
    return f" ± {error:.2g}" if error > 0 else ""
