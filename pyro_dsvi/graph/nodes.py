"""From what the programs did to latents and costs: the one file that reads Pyro's messages.

A *cost* is one term of log w = log p(x, z) - log q(z): a log density of the model, or the negative
one of the guide, scaled and masked as its program says, together with the plates it lives in and
the latents that reach it.  A *latent* is a site that the guide draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.distributions.unit import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dsvi.baselines import Counterfactual
from pyro_dsvi.errors import IncompatibleSite, SiteMismatch
from pyro_dsvi.estimators import Estimator, ScoreFunction
from pyro_dsvi.estimators.densities import log_prob
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.estimators.relaxation import extended_log_prob
from pyro_dsvi.graph.branch import Branch

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
    """

    rows: int
    nesting: int | None = None
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
            if not _is_silent(msg):
                latent = self.latents.get(name)
                log_p = log_density(msg, None if latent is None else latent.estimator)
                log_p = _weighed(log_p, msg)
                self._add_cost(msg, False, log_p, reach.get(name, EVERYTHING))
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
            if estimator is None and _is_draw_from_outside(msg):
                estimator = _OUTSIDE
            score = _score(msg, estimator)
            if not _is_silent(msg):
                by_score = score is not None and not _passes(estimator)
                # Most often the density that the credit multiplies is that of the cost.
                same = by_score and sampling_law(msg["fn"]) is msg["fn"]
                if frozen is not None:
                    log_q = frozen[name]
                else:
                    log_q = score if score is not None and same else log_density(msg, estimator)
                if by_score and additive:
                    log_q = log_q.detach()
                log_q = _weighed(log_q, msg)
                self._add_cost(msg, True, log_q, reach.get(name, EVERYTHING))
            if estimator is None:
                continue
            own = None
            if frozen is not None and score is not None and not additive:
                own = -scale_and_mask(score, msg["scale"], _whole_mask(msg))
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
                _whole_mask(msg),
                reach.get(name, EVERYTHING),
                enumerated_dims(msg),
                number_of(msg),
            )

    def _add_cost(self, msg: Any, of_guide: bool, log_density: Tensor, reach: int) -> None:
        plates = self.plates_of(msg)
        self.costs.append(
            Cost(
                msg["name"],
                of_guide,
                declared(msg, log_density),
                plates,
                reach,
                msg["scale"],
                _whole_mask(msg),
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


def enumerated_dims(msg: Any) -> Mapping[int, int]:
    """Numbers of the enumerated sites that dimensions of a site's tensors stand for."""
    return msg["infer"].get("_dim_to_id", {})


def number_of(msg: Any) -> int | None:
    """A site's own number if it has taken its whole support as its value, else None."""
    dim = msg["infer"].get("_enumerate_dim")
    return None if dim is None else enumerated_dims(msg)[dim]


def same_weight(a: Cost | Latent, b: Cost | Latent) -> bool:
    """Whether two sites enter the log weight with the same scale and mask."""
    return _same(a.scale, b.scale) and _same(a.mask, b.mask)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def _passes(estimator: Estimator | None) -> bool:
    return estimator is None or estimator.passes_gradient


def _score(msg: Any, estimator: Estimator | None) -> Tensor | None:
    """The log density that a draw's credit multiplies, if the draw needs credit."""
    if estimator is None or not estimator.needs_credit(msg["fn"]):
        return None
    if estimator is _OUTSIDE:
        return msg["fn"].log_factor
    return estimator.score(msg["fn"], msg["value"])


def log_density(msg: Any, estimator: Estimator | None = None) -> Tensor:
    """Log density of a site at its value, in nats, neither scaled nor masked.

    Args:
        msg: the site's message, in either program.
        estimator: the estimator by which its value was drawn, or None.
    """
    try:
        if estimator is not None and estimator.relaxes:
            return extended_log_prob(msg["fn"], msg["value"])
        if msg["args"] or msg["kwargs"]:
            return msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        return log_prob(msg["fn"], msg["value"])
    except IncompatibleSite as error:
        raise IncompatibleSite(f"site {msg['name']!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"site {msg['name']!r}: {error}") from error


def _weighed(log_density: Tensor, msg: Any) -> Tensor:
    """The log density as it enters the log weight: scaled and masked."""
    scale, mask = msg["scale"], msg["mask"]
    if mask is None and type(scale) is float and scale == 1.0:
        return log_density
    return scale_and_mask(log_density, scale, mask)


def _is_silent(msg: Any) -> bool:
    """Whether the whole site is masked out, as ``pyro.deterministic`` sites are."""
    return msg["mask"] is False or getattr(msg["fn"], "_mask", None) is False


def _whole_mask(msg: Any) -> Any:
    """The site's mask and its distribution's, as one."""
    own = getattr(msg["fn"], "_mask", None)
    if own is None or own is True:
        return msg["mask"]
    return own if msg["mask"] is None or msg["mask"] is True else own & msg["mask"]


def _is_draw_from_outside(msg: Any) -> bool:
    """Whether a factor of the guide is the density of a draw without reparameterisation.

    Raises:
        SiteMismatch: if the factor does not say.
    """
    if not isinstance(msg["fn"], Unit):
        return False
    if "has_rsample" not in vars(msg["fn"]):
        raise SiteMismatch(
            f"site {msg['name']!r}: a factor in the guide must say where it comes from; "
            "pass has_rsample=True to pyro.factor if it comes from a reparameterised draw, "
            "has_rsample=False if not"
        )
    return not msg["fn"].has_rsample


def declared(msg: Any, value: Tensor) -> Tensor:
    """Check that every batch dimension of a log density belongs to a plate or enumerated site.

    Raises:
        SiteMismatch: if one does not, and Pyro's validation is on; else it is summed.
    """
    stack = msg["cond_indep_stack"]
    if not stack and value.dim() == 0:
        return value
    sizes = {f.dim: f.size for f in stack if f.dim is not None}
    enumerated = enumerated_dims(msg)
    shape = value.shape
    if len(shape) < -min(sizes, default=0):
        shape = torch.Size((1,) * (-min(sizes) - len(shape)) + tuple(shape))
    wrong = [
        dim
        for dim, size in zip(range(-len(shape), 0), shape, strict=True)
        if size != sizes.get(dim, 1) and dim not in enumerated
    ]
    if not wrong:
        return value
    if is_validation_enabled():
        wanted = [sizes.get(dim, 1) for dim in range(-len(shape), 0)]
        raise SiteMismatch(
            f"site {msg['name']!r}: its log density has shape {tuple(shape)}, its plates declare "
            f"{tuple(wanted)}; enclose the batch in a pyro.plate, or move it into the event with "
            ".to_event(...)"
        )
    value = value.reshape(shape)
    for dim in wrong:
        value = value.expand(_with(value.shape, dim, sizes[dim])) if dim in sizes else value
        value = value if dim in sizes else value.sum(dim, keepdim=True)
    return value


def _with(shape: torch.Size, dim: int, size: int) -> list[int]:
    sizes = list(shape)
    sizes[dim] = size
    return sizes
