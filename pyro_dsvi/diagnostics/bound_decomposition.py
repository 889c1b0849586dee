r"""What the evidence lower bound consists of, and what it lacks.

.. math:: \text{ELBO} = \underbrace{\mathbb{E}_q \log p(x \mid z)}_{\text{log likelihood}}
    - \mathrm{KL}(q \,\|\, p(z)), \qquad
    \mathrm{KL} = \underbrace{-\mathbb{E}_q \log p(z)}_{\text{cross-entropy}}
    - \underbrace{(-\mathbb{E}_q \log q)}_{\text{entropy}}

site by site and plate by plate; closed forms where torch and Pyro have them, else the mean over
draws with its standard error.  The gap to log p(x) has two parts: what the best guide of the family
lacks, datum by datum, and what one network for all data loses against it:

.. math:: \log p(x) - \text{ELBO}(q) =
    \underbrace{\log p(x) - \text{ELBO}(q^\star)}_{\text{approximation}}
    + \underbrace{\text{ELBO}(q^\star) - \text{ELBO}(q)}_{\text{amortisation}}

References:
    :cite:p:`cremer2018inference`
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.bounds import Evidence
from pyro_dsvi.diagnostics.log_evidence import Drawing, LogEvidence
from pyro_dsvi.errors import check_whole
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Cost, Run

LIKELIHOOD, PRIOR, ENTROPY, DIVERGENCE = "log likelihood", "log prior", "entropy", "-KL"


@dataclass(frozen=True)
class Estimated:
    """A number with its standard error, both in nats; zero where nothing was left to chance."""

    value: float
    standard_error: float

    def __sub__(self, other: "Estimated") -> "Estimated":
        """The difference from an independent one."""
        error = math.hypot(self.standard_error, other.standard_error)
        return Estimated(self.value - other.value, error)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the bound.

    Attributes:
        site: the site.
        part: ``"log likelihood"``, ``"log prior"`` (minus the cross-entropy), ``"entropy"`` of the
            guide, or ``"-KL"`` where the two are one closed form.
        plates: the plates that the site lives in, outermost first.
        value: its expectation in nats for each element of the plates, shape ``[*plates]``.
        standard_error: of each, same shape.
        closed: whether it is a closed form, as far as the site's own draw goes.
        per_draw: its sum over plates at each draw, in nats, shape ``[num_samples]``.
    """

    site: str
    part: str
    plates: tuple[str, ...]
    value: Tensor
    standard_error: Tensor
    closed: bool
    per_draw: Tensor

    @property
    def total(self) -> Estimated:
        """The sum over plates."""
        return _estimated(self.per_draw)


@dataclass(frozen=True, eq=False)
class BoundDecomposition:
    """The evidence lower bound, term by term.

    Attributes:
        terms: the terms, whose sum it is.
        log_evidence: log p(x) in nats, if it was given.
        best: the bound of the best guide of the family, in nats, if one was given.
    """

    terms: tuple[Term, ...]
    log_evidence: Estimated | None = None
    best: Estimated | None = None

    @property
    def bound(self) -> Estimated:
        """The evidence lower bound."""
        return _sum(self.terms)

    @property
    def expected_log_likelihood(self) -> Estimated:
        """The expectation of log p(x | z)."""
        return _sum(term for term in self.terms if term.part == LIKELIHOOD)

    @property
    def divergence(self) -> Estimated:
        """The divergence of the guide from the prior."""
        return _negative(_sum(term for term in self.terms if term.part != LIKELIHOOD))

    @property
    def gap(self) -> Estimated | None:
        """What the bound lacks to log p(x); None where that is not known."""
        return None if self.log_evidence is None else self.log_evidence - self.bound

    @property
    def approximation_gap(self) -> Estimated | None:
        """What the best guide of the family lacks to log p(x)."""
        if self.log_evidence is None or self.best is None:
            return None
        return self.log_evidence - self.best

    @property
    def amortisation_gap(self) -> Estimated | None:
        """What the guide lacks to the best one of its family."""
        return None if self.best is None else self.best - self.bound

    def by_site(self) -> dict[str, dict[str, Estimated]]:
        """The sums over plates, by site and part."""
        found: dict[str, dict[str, Estimated]] = {}
        for term in self.terms:
            found.setdefault(term.site, {})[term.part] = term.total
        return found

    def by_plate(self) -> dict[tuple[str, ...], dict[str, Estimated]]:
        """The sums over sites and plate elements, by the plates that sites live in and by part."""
        keys = dict.fromkeys((term.plates, term.part) for term in self.terms)
        found: dict[tuple[str, ...], dict[str, Estimated]] = {}
        for plates, part in keys:
            mine = (t for t in self.terms if (t.plates, t.part) == (plates, part))
            found.setdefault(plates, {})[part] = _sum(mine)
        return found

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each term: site, part, plates, value, ..."""
        import pandas as pd

        rows = [
            {
                "site": term.site,
                "part": term.part,
                "plates": ", ".join(term.plates),
                "value": term.total.value,
                "standard_error": term.total.standard_error,
                "closed": term.closed,
            }
            for term in self.terms
        ]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        rows = [("site", "part", "plates", "nats", "")]
        for term in self.terms:
            how = "closed form" if term.closed else "sampled"
            rows.append((term.site, term.part, ", ".join(term.plates), str(term.total), how))
        rows.append(("", "expected log likelihood", "", str(self.expected_log_likelihood), ""))
        rows.append(("", "KL", "", str(self.divergence), ""))
        rows.append(("", "bound", "", str(self.bound), ""))
        further = {
            "log p(x)": self.log_evidence,
            "gap": self.gap,
            "of approximation": self.approximation_gap,
            "of amortisation": self.amortisation_gap,
        }
        rows += [("", name, "", str(x), "") for name, x in further.items() if x is not None]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
        return "\n".join("  ".join(row).rstrip() for row in cells)


@torch.no_grad()
def bound_decomposition(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    chunk: int | None = None,
    vectorize_particles: bool | None = None,
    log_evidence: float | LogEvidence | None = None,
    best_guide: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> BoundDecomposition:
    """Take the evidence lower bound apart, by site and by plate, and tell its gap to log p(x).

    A closed form takes the place of a sampled density where it is exact given the draws upstream,
    as with ``analytic_kl``; its standard error is that of these draws, zero where there are none.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        num_samples: draws of the guide, at least 2.
        chunk: draws held in memory at once; None: all.
        vectorize_particles: whether draws are made side by side; None: where the programs can.
        log_evidence: log p(x) in nats, or what :func:`pyro_dsvi.log_evidence` has found of it.
        best_guide: for the split of the gap, a guide of the same family whose local parameters are
            free for each datum, fitted to the end on these very arguments (start it from the
            amortised guide's output).  How good it is decides what is called approximation.
        kwargs: keyword arguments of both.

    Returns:
        The terms; it prints as a table, and ``to_pandas`` gives a data frame.

    Raises:
        InvalidArgument: if ``num_samples`` cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(0.5, 1.0))
        >>> parts = dsvi.diagnostics.bound_decomposition(model, guide)
        >>> parts.divergence
        Estimated(value=0.125, standard_error=0.0)

    References:
        :cite:p:`cremer2018inference`
    """
    check_whole("bound_decomposition: num_samples", num_samples, 2)

    def terms(program: Callable[..., Any]) -> tuple[Term, ...]:
        drawing = Drawing(
            Evidence(),
            num_particles=num_samples,
            chunk=chunk,
            vectorize_particles=vectorize_particles,
            analytic_kl=True,
        )
        gathered = _Gathered(num_samples)
        for _, _, _, runs in drawing.weigh(model, program, args, kwargs):
            gathered.add(runs)
        return gathered.terms()

    known = None
    if isinstance(log_evidence, LogEvidence):
        known = Estimated(log_evidence.value, log_evidence.standard_error)
    elif log_evidence is not None:
        known = Estimated(float(log_evidence), 0.0)
    best = None if best_guide is None else _sum(terms(best_guide))
    return BoundDecomposition(terms(guide), known, best)


_Key = tuple[str, str, frozenset[str]]


class _Gathered:
    """The terms of draws so far.

    Args:
        num_samples: how many draws there will be; a draw without a term counts as zero there.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.seen = 0
        self._about: dict[_Key, Tensor] = {}  # sums of squares are taken about the first draw
        self._sums: dict[_Key, tuple[Tensor, Tensor]] = {}
        self._counts: dict[_Key, int] = {}
        self._rows: dict[_Key, Tensor] = {}
        self._closed: dict[_Key, bool] = {}
        self._dims: dict[str, int] = {}

    def add(self, runs: list[Run]) -> None:
        """Take in some draws."""
        layout = Layout.of(runs)
        self._dims.update({name: plate.dim for name, plate in layout.plates.items()})
        for run in runs:
            for cost in run.costs:
                key = (cost.site, _part(cost, run), cost.plates)
                value = layout.arrange(cost.value, run.rows).double()
                about = self._about.setdefault(key, value[0])
                first, second = self._sums.get(key, (0.0, 0.0))
                off = value - about
                self._sums[key] = (first + off.sum(0), second + off.square().sum(0))
                self._counts[key] = self._counts.get(key, 0) + run.rows
                rows = self._rows.setdefault(key, value.new_zeros(self.num_samples))
                rows[self.seen : self.seen + run.rows] += value.reshape(run.rows, -1).sum(1)
                self._closed[key] = self._closed.get(key, True) and cost.closed is not None
            self.seen += run.rows

    def terms(self) -> tuple[Term, ...]:
        """What they say."""
        found = []
        for key, (first, second) in self._sums.items():
            site, part, names = key
            plates = tuple(sorted(names, key=self._dims.__getitem__))
            shape = [first.shape[self._dims[name]] for name in plates]
            n, rows, about = self.num_samples, self._rows[key], self._about[key]
            without = n - self._counts[key]
            first, second = first - without * about, second + without * about.square()
            variance = (second / n - (first / n).square()).clamp(min=0) / (n - 1)
            mean = about + first / n
            found.append(
                Term(
                    site,
                    part,
                    plates,
                    mean.reshape(shape),
                    variance.sqrt().reshape(shape),
                    self._closed[key],
                    rows,
                )
            )
        return tuple(found)


def _part(cost: Cost, run: Run) -> str:
    if cost.closed is not None:
        return cost.closed
    if cost.of_guide:
        return ENTROPY
    return PRIOR if cost.site in run.latents else LIKELIHOOD


def _sum(terms: Iterable[Term]) -> Estimated:
    rows: Any = sum(term.per_draw for term in terms)
    return _estimated(rows) if isinstance(rows, Tensor) else Estimated(0.0, 0.0)


def _estimated(rows: Tensor) -> Estimated:
    error = float(rows.std()) / len(rows) ** 0.5
    constant = bool((rows == rows[0]).all())
    return Estimated(float(rows.mean()), 0.0 if constant else error)


def _negative(x: Estimated) -> Estimated:
    return Estimated(-x.value, x.standard_error)
