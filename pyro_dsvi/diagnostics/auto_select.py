r"""Try estimators at each site for a few steps, and keep the one of least variance times time.

.. math:: \hat e = \arg\min_e \; t_e \operatorname{tr} \operatorname{Var} g_e

is the estimator whose mean over a second is nearest the gradient.  Sites are settled one after the
other, the others being at what they have got so far; sites that look alike are settled together.
Every candidate is unbiased, so nothing but variance and time is at stake, and the outcome is
compared with the default once more before it is recommended.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch

from pyro_dsvi.baselines import LeaveOneOut, MovingAverage
from pyro_dsvi.bounds import Bound, Evidence
from pyro_dsvi.diagnostics.budget import Draws
from pyro_dsvi.diagnostics.contender import Contender, take_turns
from pyro_dsvi.diagnostics.estimates import step
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.handlers import SameMinibatch
from pyro_dsvi.diagnostics.prepared import at_rest, meet_parameters, on_trial
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Found
from pyro_dsvi.diagnostics.tables import aligned
from pyro_dsvi.errors import DSVIError, InvalidArgument
from pyro_dsvi.estimators import (
    ARM,
    REBAR,
    Bias,
    Delta,
    DisARM,
    Enumerate,
    Estimator,
    MeasureValued,
    Pathwise,
    ScoreFunction,
    SumAndSample,
    Taylor,
    WithoutReplacement,
)
from pyro_dsvi.estimators.law import innermost, is_point_mass
from pyro_dsvi.objective import Objective
from pyro_dsvi.passes.record import Record
from pyro_dsvi.strategy import is_marked, per_site

_NAME = "auto_select"
_PATIENCE = 20.0  # seconds that a candidate may take
_ROUNDING = 1e-12  # of the squared mean, relative; below it a variance is none


def candidates() -> list[Estimator]:
    """The unbiased estimators that are tried, each where a site can have it."""
    return [
        Pathwise(),
        ScoreFunction(),
        ScoreFunction(MovingAverage()),
        ScoreFunction(LeaveOneOut()),
        Taylor(),
        Delta(),
        MeasureValued(),
        Enumerate(),
        DisARM(),
        ARM(),
        REBAR(),
        WithoutReplacement(2),
        SumAndSample(2),
    ]


def auto_select(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    bound: Bound | None = None,
    num_particles: int = 1,
    among: Sequence[Estimator] | None = None,
    num_steps: int = 64,
    seed: int = 0,
    **kwargs: Any,
) -> dict[str, Estimator]:
    """Choose an estimator for each site by a short probe, and print why.

    Sites that ask for an estimator of their own, and point masses, are left as they are.
    Generators, parameters and gradients are left as they were found.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of model and guide.
        bound: the bound to be estimated; None for the ELBO.
        num_particles: particles of a step.
        among: the estimators to try, all unbiased; None for those of the package.
        num_steps: steps by which an estimator is judged.
        seed: what the steps and the minibatch are drawn from.
        kwargs: keyword arguments of model and guide.

    Returns:
        The estimator of each site, by name: what ``estimators=`` takes.  Printed, it is Python
        that makes it again.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))
        >>> among = [dsvi.Pathwise(), dsvi.ScoreFunction()]
        >>> chosen = dsvi.diagnostics.auto_select(model, guide, among=among)  # doctest: +ELLIPSIS
        site ...
        >>> chosen
        {'z': Pathwise()}
        >>> elbo = dsvi.Objective(dsvi.bounds.Evidence(), estimators=chosen)
    """
    bound = Evidence() if bound is None else bound
    among = candidates() if among is None else list(among)
    _check(among, num_steps)
    programs = Programs(model, guide, args, kwargs)
    with at_rest(programs, seed), SameMinibatch(seed):
        groups, left = _groups(programs, num_particles)
        meet_parameters(programs)
        probe = _Probe(programs, bound, num_particles, num_steps, seed)
        default = {name: group.default for group in groups for name in group.sites}
        chosen = dict(default)
        for group in groups:
            chosen = probe.settle(group, chosen, among)
        kept = probe.better(chosen, default) if chosen != default else chosen
    print("\n".join([*aligned(probe.rows, left=(0, 1, 5)), *left, *probe.remarks, repr(kept)]))
    return kept


@dataclass(frozen=True, eq=False)
class _Group:
    """Sites that look alike."""

    sites: tuple[str, ...]
    q: Any
    default: Estimator


@dataclass(frozen=True)
class _Tried:
    """How a choice for all sites fared."""

    choice: Mapping[str, Estimator]
    variance: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Variance times time; among those without variance, time."""
        return self.variance * self.seconds, self.seconds


@dataclass(eq=False)
class _Probe:
    """Tries choices for all sites, and notes how they fared."""

    programs: Programs
    bound: Bound
    particles: int
    steps: int
    seed: int
    rows: list[list[str]] = field(
        default_factory=lambda: [["site", "estimator", "variance", "s a step", "variance x s", ""]]
    )
    remarks: list[str] = field(default_factory=list)

    def settle(
        self, group: _Group, chosen: Mapping[str, Estimator], among: Sequence[Estimator]
    ) -> dict[str, Estimator]:
        """The choice with the best estimator at this group's sites."""
        options = [group.default, *(e for e in among if repr(e) != repr(group.default))]
        options = [e for e in options if e is group.default or e.objection(group.q) is None]
        choices = [{**chosen, **dict.fromkeys(group.sites, e)} for e in options]
        tried = self._try(choices, [repr(e) for e in options], ", ".join(group.sites))
        best = min(tried, key=lambda t: t.rank)
        for t in tried:
            name = repr(t.choice[group.sites[0]])
            self._note(", ".join(group.sites), name, t, "<- chosen" if t is best else "")
        return dict(best.choice)

    def better(
        self, chosen: Mapping[str, Estimator], default: Mapping[str, Estimator]
    ) -> dict[str, Estimator]:
        """The choice, if it holds its own against the default once more."""
        names = ["the choice", "the default"]
        tried = self._try([chosen, default], names, "all sites")
        best = min(tried, key=lambda t: t.rank)
        for t in tried:
            name = names[0] if t.choice is chosen else names[1]
            self._note("all sites", name, t, "<- kept" if t is best else "")
        return dict(best.choice)

    def _note(self, sites: str, name: str, tried: _Tried, mark: str) -> None:
        numbers = [f"{tried.variance:.3g}", f"{tried.seconds:.2g}", f"{tried.rank[0]:.2g}"]
        self.rows.append([sites, name, *numbers, mark])

    def _try(
        self, choices: Sequence[Mapping[str, Estimator]], names: Sequence[str], where: str
    ) -> list[_Tried]:
        ready: list[tuple[Mapping[str, Estimator], Contender]] = []
        with ExitStack() as stack:
            for choice, name in zip(choices, names, strict=True):
                try:
                    contender = self._contender(choice, name, stack)
                except DSVIError as error:
                    self.remarks.append(f"{where}: {name} left out: {error}")
                    continue
                ready.append((choice, contender))
            take_turns([c for _, c in ready], Draws(self.steps * self.particles))
            return [self._fared(choice, contender) for choice, contender in ready]

    def _contender(self, choice: Mapping[str, Estimator], name: str, stack: ExitStack) -> Contender:
        objective = Objective(
            self.bound,
            num_particles=self.particles,
            estimators={site: copy.deepcopy(estimator) for site, estimator in choice.items()},
        )
        tested = stack.enter_context(on_trial(objective, self.programs, _NAME))
        pyro.set_rng_seed(self.seed)
        step(tested, self.programs)
        began = time.perf_counter()
        step(tested, self.programs)
        took = (time.perf_counter() - began) * self.steps
        if took > _PATIENCE:
            raise InvalidArgument(f"{self.steps} steps would take {took:.0f} s")
        contender = Contender(name, tested, self.programs, self.bound)
        contender.prepare(_nowhere(self.programs), Draws(self.steps), self.seed)
        return contender

    def _fared(self, choice: Mapping[str, Estimator], contender: Contender) -> _Tried:
        assert contender.tally is not None  # as nothing was visited
        variance = contender.tally.spread().value
        mean = sum(float(m.square().sum()) for m in contender.tally.moments.mean)
        if variance <= _ROUNDING * mean:
            variance = 0.0
        return _Tried(choice, variance, float(np.median(contender.seconds)))


def _groups(programs: Programs, num_particles: int) -> tuple[list[_Group], list[str]]:
    """The sites to settle, those that look alike together, and what is left as it is."""
    with torch.no_grad(), Record(None) as record:
        programs.guide(*programs.args, **programs.kwargs)
    alike: dict[Any, list[str]] = {}
    left = []
    for name, msg in record.sites.items():
        q = msg["fn"]
        if msg["is_observed"] or is_point_mass(q):
            continue
        if "estimator" in msg["infer"] or is_marked(msg["infer"]):
            left.append(f"{name}: left as the site itself asks")
            continue
        if not hasattr(q, "batch_shape"):
            continue
        key = type(innermost(q)), q.batch_shape, q.event_shape
        alike.setdefault(key, []).append(name)
    groups = []
    for sites in alike.values():
        q = record.sites[sites[0]]["fn"]
        groups.append(_Group(tuple(sites), q, per_site(q, num_particles)[0]))
    return groups, left


def _nowhere(programs: Programs) -> Found:
    """No reference at all: only the variance is asked for."""
    zero = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in programs.parameters.items()}
    return Found(Gradient(zero, zero, zero, "none"))


def _check(among: Sequence[Any], num_steps: int) -> None:
    for estimator in among:
        if not isinstance(estimator, Estimator) or estimator.bias is not Bias.UNBIASED:
            raise InvalidArgument(
                f"{_NAME}: expected unbiased estimators, got {estimator!r}; variance and time say "
                "nothing of a bias"
            )
    if num_steps < 32:
        raise InvalidArgument(f"{_NAME}: num_steps must be at least 32, got {num_steps}")
