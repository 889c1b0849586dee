"""Which estimator each latent site gets, and why.

The site's own ``infer={"estimator": ...}`` comes first, then the objective's mapping by name, then
the objective's default.  What cannot be right is refused here, before the site is drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_dsvi.baselines import LeaveOneOut
from pyro_dsvi.bounds import Pursuit, Weighting
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.estimators import Enumerate, Estimator, Marginalize, Pathwise, ScoreFunction
from pyro_dsvi.estimators.law import is_partly_reparameterised, is_point_mass

Default = Callable[[Any, int], tuple[Estimator, str]]


@dataclass(frozen=True)
class Choice:
    """The estimator of one site.

    Attributes:
        estimator: the estimator.
        reason: why the site got it, in words.
    """

    estimator: Estimator
    reason: str


def is_marked(infer: Mapping[str, Any]) -> bool:
    """Whether Pyro's own annotation asks for the sum over a site's support."""
    return infer.get("enumerate") == "parallel" and infer.get("num_samples") is None


def table(choices: Mapping[str, Choice]) -> str:
    """The choices as text: site, estimator, baseline, bias and reason, one line a site."""
    rows = [("site", "estimator", "baseline", "bias", "why")]
    for name, choice in choices.items():
        estimator = choice.estimator
        baseline = type(estimator.baseline).__name__ if estimator.baseline is not None else "-"
        kind = type(estimator).__name__
        rows.append((name, kind, baseline, estimator.bias.value, choice.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def per_site(q: Any, num_particles: int) -> tuple[Estimator, str]:
    """Pathwise where the distribution can, else the score function with leave-one-out."""
    name = type(q).__name__
    if is_point_mass(q):
        return Pathwise(), "a point mass: the value is the parameter"
    if getattr(q, "has_rsample", False):
        rest = ", the rest by its score" if is_partly_reparameterised(q) else ""
        return Pathwise(), f"default: {name} has rsample{rest}"
    if num_particles > 1:
        return ScoreFunction(LeaveOneOut()), f"default: {name} has no rsample"
    return ScoreFunction(), f"default: {name} has no rsample (one particle: no leave-one-out)"


def _weighed(q: Any, frozen: bool) -> tuple[Estimator, str]:
    """What a site gets where the guide's densities are weighed by particle."""
    if frozen and getattr(q, "has_rsample", False):
        return Pathwise(), f"default: {type(q).__name__} has rsample, and densities are frozen"
    return ScoreFunction(), "default: the density is weighed by particle"


@dataclass(frozen=True)
class Everywhere:
    """The same estimator at every site, but for point masses, through which a gradient just flows.

    Args:
        estimator: the estimator.
    """

    estimator: Estimator

    def __call__(self, q: Any, num_particles: int) -> tuple[Estimator, str]:
        if is_point_mass(q):
            return Pathwise(), "a point mass: the value is the parameter"
        return self.estimator, "the objective's choice for every site"


@dataclass(frozen=True)
class Strategy:
    """Assigns an estimator to each site.

    Args:
        default: what a site gets that nobody spoke for.
        by_name: estimators of named sites.
        num_particles: particles of the objective.
        frozen: whether the guide's densities are frozen.
        additive: whether the bound is additive.
        follows: what the guide follows.

    Raises:
        InvalidArgument: if the mapping holds something that is no estimator, or one that needs
            more particles than there are or another bound; or if the guide follows paths alone,
            and densities are live.
    """

    default: Default = per_site
    by_name: Mapping[str, Estimator] = field(default_factory=dict)
    num_particles: int = 1
    frozen: bool = False
    additive: bool = True
    follows: Pursuit | None = None

    def __post_init__(self) -> None:
        if self.follows is not None and not (self.follows.weighs or self.frozen):
            raise InvalidArgument(
                f"{type(self.follows).__name__} weighs the paths of draws alone: pass frozen=True"
            )
        for name, estimator in self.by_name.items():
            self._admit(estimator, f"estimators[{name!r}]", InvalidArgument)
        if isinstance(self.default, Everywhere):
            self._admit(self.default.estimator, "the objective", InvalidArgument)

    def choose(
        self, name: str, q: Any, infer: Mapping[str, Any], num_particles: int | None = None
    ) -> Choice:
        """The estimator of one site.

        Args:
            name: the site's name.
            q: the guide's distribution there.
            infer: the site's own annotation.
            num_particles: particles of the site, where they are not those of the objective.

        Raises:
            IncompatibleSite: if the estimator cannot handle the distribution or the objective.
        """
        if "estimator" in infer:
            estimator, reason = infer["estimator"], "asked for by the site"
        elif name in self.by_name:
            estimator, reason = self.by_name[name], "asked for by name in the objective"
        elif is_marked(infer):
            estimator, reason = Enumerate(), "asked for by infer={'enumerate': 'parallel'}"
        elif isinstance(self.follows, Weighting) and self.default is per_site:
            estimator, reason = _weighed(q, self.frozen)
        else:
            estimator, reason = self.default(q, num_particles or self.num_particles)
        where = f"site {name!r}"
        self._admit(estimator, where, IncompatibleSite, num_particles)
        if isinstance(self.follows, Weighting):
            self._refuse_credit(estimator, q, where, self.follows)
        if bool(infer.get("frozen", self.frozen)) != self.frozen:
            raise IncompatibleSite(
                f"{where}: infer={{'frozen': {infer['frozen']}}} under an objective with "
                f"frozen={self.frozen}; a mix of frozen and live sites is biased, so freeze all "
                "sites (frozen=True on the objective) or none"
            )
        if self.frozen and estimator.relaxes and estimator.passes_gradient:
            raise IncompatibleSite(
                f"{where}: {type(estimator).__name__} with frozen=True: freezing rests on an exact "
                "reparameterisation, which a relaxation is not; use frozen=False"
            )
        objection = estimator.objection(q)
        if objection is not None:
            raise IncompatibleSite(f"{where}: {type(estimator).__name__}: {objection}")
        return Choice(estimator, reason)

    def _refuse_credit(self, estimator: Estimator, q: Any, where: str, follows: Weighting) -> None:
        """Refuse what has nothing to do where the guide's densities are weighed and no more."""
        name, guide = type(estimator).__name__, type(follows).__name__
        if is_point_mass(q):
            raise IncompatibleSite(
                f"{where}: a point mass has no density for {guide} to weigh; use a bound whose "
                "guide climbs it, e.g. dsvi.IWAE"
            )
        if isinstance(estimator, Pathwise):
            if not self.frozen:
                raise IncompatibleSite(
                    f"{where}: Pathwise: {guide} weighs densities, and a path would count twice "
                    "beside them; pass frozen=True, or use dsvi.estimators.ScoreFunction() here"
                )
            plain = follows.weighs or not estimator.needs_credit(q)
        else:
            plain = follows.weighs and estimator == ScoreFunction()
        if not plain and not isinstance(estimator, Marginalize):
            offered = "ScoreFunction() or, with frozen=True, Pathwise()"
            raise IncompatibleSite(
                f"{where}: {name} under {guide}: it weighs densities by numbers that no draw "
                "answers for, so there is no credit to send back; use dsvi.estimators."
                f"{offered if follows.weighs else 'Pathwise() and a distribution with rsample'}"
            )

    def _admit(
        self, estimator: Any, where: str, kind: type[Exception], particles: int | None = None
    ) -> None:
        particles = particles or self.num_particles
        if not isinstance(estimator, Estimator):
            raise kind(
                f"{where}: expected an estimator, got {estimator!r}; "
                "e.g. dsvi.estimators.Pathwise()"
            )
        if estimator.additive_only is not None and not self.additive:
            raise kind(f"{where}: {type(estimator).__name__}: {estimator.additive_only}")
        baseline = estimator.baseline
        if baseline is not None and baseline.min_particles > particles:
            raise kind(
                f"{where}: the baseline {type(baseline).__name__} needs at least "
                f"{baseline.min_particles} particles, got num_particles={particles}; "
                "raise num_particles or use dsvi.baselines.MovingAverage()"
            )
