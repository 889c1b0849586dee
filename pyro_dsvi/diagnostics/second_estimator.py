"""A reference by another unbiased estimator, where the draws cannot be enumerated."""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from pyro_dsvi.baselines import LeaveOneOut
from pyro_dsvi.bounds import Bound, Evidence
from pyro_dsvi.diagnostics.estimates import sampled
from pyro_dsvi.diagnostics.handlers import Unannotated
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Found, Reference
from pyro_dsvi.errors import InvalidArgument, NoReference
from pyro_dsvi.estimators import Estimator, Pathwise, ScoreFunction
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.objective import Objective
from pyro_dsvi.passes.record import Record

_LOOKS = 16  # runs in which to meet the parameters of programs that branch


@dataclass(frozen=True)
class SecondEstimator(Reference):
    """A reference by sampling: at each site by another estimator than the objective's.

    Pathwise where the site has ``rsample`` and the objective uses anything else, or freezes the
    densities; the score function with leave-one-out where the objective uses anything else.

    Args:
        num_samples: steps to average.
        num_particles: particles in each step under an additive bound, whose gradient does not
            depend on their number; a K-sample bound has its own K.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> reference = dsvi.diagnostics.SecondEstimator(num_samples=20_000)
    """

    num_samples: int = 2000
    num_particles: int = 16

    def __post_init__(self) -> None:
        if self.num_samples < 2 or self.num_particles < 2:
            raise InvalidArgument(
                "SecondEstimator: num_samples and num_particles must be at least 2, got "
                f"{self.num_samples} and {self.num_particles}"
            )

    def find(self, programs: Programs, bound: Bound, num_particles: int, tested: Any) -> Found:
        estimators = _others(programs, tested)
        if num_particles == 1:  # every bound of one log weight is that log weight
            bound = Evidence()
        second = Objective(
            bound,
            num_particles=self.num_particles if bound.additive else num_particles,
            estimators=estimators,
        )
        plain = replace(programs, guide=Unannotated()(programs.guide))
        for _ in range(_LOOKS):
            with plain.watch() as watched:
                loss = second.differentiable_loss(
                    plain.model, plain.guide, *plain.args, **plain.kwargs
                )
            plain.meet(watched, loss)
        found = sampled(second, plain, self.num_samples)
        how = f"{found.how} of {second.num_particles} particles by {_told(estimators)}"
        return Found(replace(found, how=how))


def _others(programs: Programs, tested: Any) -> dict[str, Estimator]:
    """A second estimator for each site."""
    used: dict[str, Estimator] = {}
    frozen = False
    if isinstance(tested, Objective):
        with redirect_stdout(io.StringIO()):
            choices = tested.describe(
                programs.model, programs.guide, *programs.args, **programs.kwargs
            )
        used = {name: choice.estimator for name, choice in choices.items()}
        frozen = tested.frozen
    with Record(None) as record:
        programs.guide(*programs.args, **programs.kwargs)
    return {
        name: _other(name, site, used.get(name), frozen)
        for name, site in record.sites.items()
        if not site["is_observed"]
    }


def _other(name: str, site: Any, used: Estimator | None, frozen: bool) -> Estimator:
    q = site["fn"]
    if is_point_mass(q):
        return Pathwise()
    # An objective that is not ours does as Pyro's: by the path where there is one.
    by_path = isinstance(used, Pathwise) if used is not None else True
    if getattr(q, "has_rsample", False) and (frozen or not by_path):
        return Pathwise()
    if isinstance(used, ScoreFunction):
        raise NoReference(
            f"site {name!r}: {type(q).__name__} has no other unbiased estimator than the score "
            "function, which is the one in question"
        )
    score = ScoreFunction(LeaveOneOut())
    objection = score.objection(q) or _without_density(q, site["value"])
    if objection is not None:
        raise NoReference(f"site {name!r}: {objection}")
    return score


def _without_density(q: Any, value: Any) -> str | None:
    try:
        q.log_prob(value)
    except NotImplementedError:
        return f"{type(q).__name__} has no log density, so its draws have no score"
    return None


def _told(estimators: dict[str, Estimator]) -> str:
    sites: dict[str, list[str]] = {}
    for name, estimator in estimators.items():
        how = "the path" if isinstance(estimator, Pathwise) else "the score with leave-one-out"
        sites.setdefault(how, []).append(name)
    return ", ".join(f"{how} at {', '.join(names)}" for how, names in sites.items())
