"""From what the programs did to latents and costs.

A *cost* is one term of log w = log p(x, z) - log q(z): a log density of the model, or the negative
one of the guide, scaled and masked as its program says, together with the plates it lives in and
the latents that reach it.  A *latent* is a site that the guide draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual
from pyro_dsvi.estimators import Estimator, ScoreFunction
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.graph.branch import Branch
from pyro_dsvi.graph.messages import (
    declared,
    enumerated_dims,
    is_draw_from_outside,
    is_silent,
    log_density,
    number_of,
    weighed,
    whole_mask,
)

PARTICLES = "num_particles_vectorized"
EVERYTHING = -1  # the bit set of all latents
_OUTSIDE = ScoreFunction()  # what a guide's factor stands for: a draw made outside Pyro


@dataclass(eq=False, slots=True)
class Plate:
    """A vectorised plate: its dimension from the right, and the factor its subsampling brings."""

    name: str
    dim: int
    scale: float


@dataclass(eq=False, slots=True)
class Cost:
    """One term of a log weight.

    Attributes:
        site: name of the site it comes from.
        of_guide: whether it is a density of the guide (it enters with a minus) or of the model.
        log_density: log density in nats, scaled and masked, in the shape the program gave it.
        plates: names of the plates it lives in.
        reach: bit set of the latents that reach it.
        scale: the site's whole scale, subsampling included.
        mask: the site's mask, and its distribution's, as one; None if there is none.
        law: the distribution whose log density it is.
        drawn: the value at which it was taken.
        dims: numbers of the enumerated sites whose values its dimensions run over, by dimension.
        factors: the sites whose densities a sum over a support has made one, if there is one.
        closed: what closed form it is (``"-KL"``, ``"entropy"`` or ``"log prior"``), if it is one.
    """

    site: str
    of_guide: bool
    log_density: Tensor
    plates: frozenset[str]
    reach: int
    scale: Any
    mask: Any
    law: Any
    drawn: Any
    dims: Mapping[int, int] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    closed: str | None = None

    @property
    def value(self) -> Tensor:
        """The term itself, with its sign."""
        return -self.log_density if self.of_guide else self.log_density


@dataclass(eq=False, slots=True)
class Latent:
    """A draw of the guide.

    Attributes:
        site: its name.
        estimator: how sensitivity crosses it.
        q: the guide's distribution.
        value: the draw.
        score: log density in nats that its credit multiplies; None if its value carries all.
        own: its signed, scaled and masked share in the log weight, differentiated through the
            parameters, where a frozen pass has taken that gradient out; else None.
        plates: names of the plates it lives in.
        bit: its own bit in the costs' reach.
        scale: the site's whole scale, subsampling included.
        mask: the site's mask, and its distribution's, as one; None if there is none.
        reach: bit set of the latents that reach its distribution, and maybe its own.
        dims: numbers of the enumerated sites whose values its dimensions run over, by dimension.
        number: its own number if it has taken its whole support as its value, else None.
        counterfactual: other values at which its estimator asks for the credit, if it does.
        answers: where the credits at these values are to be found.
    """

    site: str
    estimator: Estimator
    q: Any
    value: Tensor
    score: Tensor | None
    own: Tensor | None
    plates: frozenset[str]
    bit: int
    scale: Any
    mask: Any
    reach: int = EVERYTHING
    dims: Mapping[int, int] = field(default_factory=dict)
    number: int | None = None
    counterfactual: Counterfactual | None = None
    answers: list["Answer"] = field(default_factory=list)


def influences(bit: int, reach: int) -> bool:
    r"""Whether :math:`z \prec c`, for a latent's own bit and a cost's reach."""
    return bool(bit & reach)


class Answer(NamedTuple):
    """Rows of a further run that hold a site's other values: for each one, all particles."""

    run: "Run"
    rows: slice


@dataclass(eq=False, slots=True)
class Run:
    """One execution of guide and model, for one particle or for all of them side by side.

    Attributes:
        rows: particles in this run.
        nesting: plate dimensions to the right of the particles' own plate; None if they have none.
        costs: the terms of its log weight.
        latents: the guide's draws by name.
        branches: those of them that were made once for each value of enumerated sites.
        plates: the vectorised plates by name, that of the particles apart.
        sequential: the plates that are iterated over, and what their subsampling scales by.
        frozen: whether the guide's densities are frozen.
        defers: whether the log densities of latents that answer for nothing are only taken when the
            run is settled, if nothing has replaced them until then.
    """

    rows: int
    nesting: int | None = None
    defers: bool = False
    costs: list[Cost] = field(default_factory=list)
    latents: dict[str, Latent] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    plates: dict[str, Plate] = field(default_factory=dict)
    sequential: dict[str, float] = field(default_factory=dict)
    frozen: bool = False

    def read_model(self, sites: Mapping[str, Any], reach: Mapping[str, int]) -> None:
        """Add the model's log densities; to be called after :meth:`read_guide`.

        Args:
            sites: messages of the model's sample sites.
            reach: bit set of what reaches each of them; what is missing is reached by all.
        """
        for name, msg in sites.items():
            if not is_silent(msg):
                latent = self.latents.get(name)
                estimator = None if latent is None else latent.estimator
                if self._waits(estimator, None if latent is None else latent.score):
                    log_p = None
                else:
                    log_p = weighed(log_density(msg, estimator), msg)
                self._add_cost(msg, False, log_p, reach.get(name, EVERYTHING), estimator)
        if any(latent.estimator is _OUTSIDE for latent in self.latents.values()):
            for cost in self.costs:  # nobody saw where that draw went
                cost.reach = EVERYTHING

    def read_guide(
        self,
        sites: Mapping[str, Any],
        reach: Mapping[str, int],
        estimators: Mapping[str, Estimator],
        bits: Mapping[str, int],
        *,
        additive: bool,
        frozen: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add the guide's draws and its negative log densities.

        Args:
            sites: messages of the guide's sample sites.
            reach: bit set of what reaches each of them; what is missing is reached by all.
            estimators: the estimator of each latent.
            bits: each followed latent's own bit.
            additive: whether the bound is; the gradient of a score site's own density then has
                zero mean and is left out.
            frozen: log densities from the frozen pass, to be used instead, or None.
        """
        self.frozen = frozen is not None
        for name, msg in sites.items():
            estimator = estimators.get(name)
            if estimator is None and is_draw_from_outside(msg):
                estimator = _OUTSIDE
            score = _score(msg, estimator)
            if not is_silent(msg):
                by_score = score is not None and not _passes(estimator)
                # Most often the density that the credit multiplies is that of the cost.
                same = by_score and sampling_law(msg["fn"]) is msg["fn"]
                if frozen is not None:
                    log_q = frozen[name]
                elif self._waits(estimator, score):
                    log_q = None
                else:
                    log_q = score if score is not None and same else log_density(msg, estimator)
                if log_q is not None:
                    log_q = log_q.detach() if by_score and additive else log_q
                    log_q = weighed(log_q, msg)
                self._add_cost(msg, True, log_q, reach.get(name, EVERYTHING), estimator)
            if estimator is None:
                continue
            own = None
            if frozen is not None and score is not None and not additive:
                own = -scale_and_mask(score, msg["scale"], whole_mask(msg))
            bit = EVERYTHING if estimator is _OUTSIDE else bits.get(name, EVERYTHING)
            self.latents[name] = Latent(
                name,
                estimator,
                msg["fn"],
                msg["value"],
                score,
                own,
                self.plates_of(msg),
                bit,
                msg["scale"],
                whole_mask(msg),
                reach.get(name, EVERYTHING),
                enumerated_dims(msg),
                number_of(msg),
            )

    def settle(self) -> None:
        """Take the log densities that have been put off and that nothing has replaced."""
        for cost in self.costs:
            if callable(cost.log_density):
                cost.log_density = cost.log_density()

    def _waits(self, estimator: Estimator | None, score: Tensor | None) -> bool:
        """Whether a site's log density is put off: it is that of a latent, and of no other use."""
        return self.defers and estimator is not None and score is None

    def _add_cost(
        self,
        msg: Any,
        of_guide: bool,
        density: Tensor | None,
        reach: int,
        estimator: Estimator | None,
    ) -> None:
        """Add a term, its log density to be taken later if it is None."""
        plates = self.plates_of(msg)
        value: Any = _put_off(msg, estimator) if density is None else declared(msg, density)
        self.costs.append(
            Cost(
                msg["name"],
                of_guide,
                value,
                plates,
                reach,
                msg["scale"],
                whole_mask(msg),
                msg["fn"],
                msg["value"],
                enumerated_dims(msg),
            )
        )

    def plates_of(self, msg: Any) -> frozenset[str]:
        """Names of the vectorised plates that a site lives in, the particles' own apart."""
        stack = msg["cond_indep_stack"]
        if not stack:
            return frozenset()
        names = []
        for frame in stack:
            if frame.name == PARTICLES:
                continue
            full = frame.size if frame.full_size is None else frame.full_size
            if frame.dim is None:
                self.sequential[frame.name] = full / frame.size
                continue
            name = frame.name
            if name in self.plates and self.plates[name].dim != frame.dim:
                name = f"{name} (dim {frame.dim})"
            names.append(name)
            if name not in self.plates:
                self.plates[name] = Plate(name, frame.dim, full / frame.size)
        return frozenset(names)


def same_weight(a: Cost | Latent, b: Cost | Latent) -> bool:
    """Whether two sites enter the log weight with the same scale and mask."""
    return _same(a.scale, b.scale) and _same(a.mask, b.mask)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def _put_off(msg: Any, estimator: Estimator | None) -> Callable[[], Tensor]:
    """A site's log density, to be taken later; whether its shape is right is seen now."""
    shape = getattr(msg["fn"], "batch_shape", None)
    if shape:
        declared(msg, torch.empty(shape, device="meta"))
    return lambda: declared(msg, weighed(log_density(msg, estimator), msg))


def _passes(estimator: Estimator | None) -> bool:
    return estimator is None or estimator.passes_gradient


def _score(msg: Any, estimator: Estimator | None) -> Tensor | None:
    """The log density that a draw's credit multiplies, if the draw needs credit."""
    if estimator is None or not estimator.needs_credit(msg["fn"]):
        return None
    if estimator is _OUTSIDE:
        return msg["fn"].log_factor
    return estimator.score(msg["fn"], msg["value"])
