"""Measure several objectives' gradients on one pair of programs, at the same parameters.

Where a step leaves nothing to chance but the guide's draws, and these are few, each joint draw is
visited and weighted by its probability: mean and variance are then exact.  Else the objectives take
turns, a block of steps each, so that what slows the machine slows them all; each has a random
stream of its own from the same seed, so that their first draws are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.budget import Budget, as_budget
from pyro_dsvi.diagnostics.certificate import check_level
from pyro_dsvi.diagnostics.comparison import Comparison
from pyro_dsvi.diagnostics.contender import FEWEST_STEPS, WARM_UP, Contender, take_turns
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.estimates import sampled, step
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.handlers import SameMinibatch
from pyro_dsvi.diagnostics.parameters_by_site import parameters_by_site
from pyro_dsvi.diagnostics.prepared import (
    at_rest,
    bound_of,
    meet_parameters,
    on_trial,
    refuse_other_than_objective,
)
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Found, Reference
from pyro_dsvi.errors import InvalidArgument, NoReference
from pyro_dsvi.objective import Objective

_NAME = "compare_estimators"
_REFERENCE = 8  # times the budget, for a reference by sampling


def compare_estimators(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objectives: Mapping[str, Any] | Sequence[Any],
    *args: Any,
    budget: Budget | int = 2000,
    reference: Reference | Objective | str | None = None,
    seed: int = 0,
    level: float = 1e-3,
    **kwargs: Any,
) -> Comparison:
    """Bias, variance, signal to noise, consistency and efficiency of each objective's gradient.

    The gradient is with respect to the unconstrained parameters of model and guide, as they are;
    that of a subsampled plate is for one minibatch, the same throughout
    (:func:`variance_decomposition` tells what minibatches add).  Generators, parameters and their
    gradients, and what the objectives have learnt are left as they were found.

    Args:
        model: the model.
        guide: the guide.
        objectives: objectives by name, or a sequence of them.
        args: positional arguments of model and guide.
        budget: what each objective may spend: ``Draws(2000)``, for short 2000, or
            ``Seconds(5)``.
        reference: the right gradient: a :class:`Reference`, an unbiased objective, or the name of
            one among ``objectives``.  None: :class:`Enumeration` where that can be, else the bound
            under its default estimators, from 8 times the budget.
        seed: what the steps and the minibatch are drawn from.
        level: probability of calling any parameter of an unbiased objective biased.
        kwargs: keyword arguments of model and guide.

    Returns:
        A table of objectives and parameters.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Bernoulli(logits=pyro.param("eta", torch.tensor(0.3))))
        >>> loo = dsvi.ScoreFunctionELBO(dsvi.LeaveOneOut(), num_particles=2)
        >>> found = dsvi.diagnostics.compare_estimators(
        ...     model, guide, {"score": dsvi.ScoreFunctionELBO(), "leave-one-out": loo}
        ... )
        >>> round(found["score"].total.variance.value, 4)
        0.3361
        >>> found.best_at_equal_samples.name
        'leave-one-out'
    """
    named = _named(objectives)
    budget = as_budget(budget, _NAME)
    check_level(level)
    _check_reference(reference, named)
    programs = Programs(model, guide, args, kwargs)
    with at_rest(programs, seed), SameMinibatch(seed), ExitStack() as stack:
        contenders = []
        for name, objective in named.items():
            tested = stack.enter_context(on_trial(objective, programs, _NAME))
            contenders.append(Contender(name, tested, programs, bound_of(objective, _NAME)))
        meet_parameters(programs)
        references = _References(programs, reference, {c.name: c.tested for c in contenders})
        for contender in contenders:
            contender.prepare(references.of(contender, budget), budget, seed)
        take_turns([c for c in contenders if not c.exact], budget)
        sites = parameters_by_site(programs)
        return Comparison(tuple(c.measurement(sites, level) for c in contenders), level)


@dataclass(eq=False)
class _References:
    """Finds the right gradient of each bound once."""

    programs: Programs
    asked: Reference | Objective | str | None
    contenders: Mapping[str, Any]
    found: dict[Any, Found] = field(default_factory=dict)

    def of(self, contender: Contender, budget: Budget) -> Found:
        """The right gradient for one objective."""
        bound, particles = contender.bound, contender.particles
        key = (bound, None if bound.additive else particles)
        if key not in self.found:
            self.found[key] = self._find(contender, bound, particles, budget)
        return self.found[key]

    def _find(self, contender: Contender, bound: Bound, particles: int, budget: Budget) -> Found:
        if isinstance(self.asked, Reference):
            return self.asked.find(self.programs, bound, particles, contender.tested)
        if isinstance(self.asked, str):
            return self._sampled(self.contenders[self.asked], repr(self.asked), budget)
        if self.asked is not None:
            with on_trial(self.asked, self.programs, _NAME) as asked:
                return self._sampled(asked, type(self.asked).__name__, budget)
        try:
            return Enumeration().find(self.programs, bound, particles, contender.tested)
        except NoReference:
            plain = Objective(
                bound, num_particles=max(2, particles) if bound.additive else particles
            )
            return self._sampled(plain, f"{bound!r} under its default estimators", budget)

    def _sampled(self, objective: Any, told: str, budget: Budget) -> Found:
        particles = getattr(objective, "num_particles", 1)
        steps = _REFERENCE * max(FEWEST_STEPS, budget.draws // particles)
        for _ in range(WARM_UP):
            step(objective, self.programs)
        gradient = sampled(objective, self.programs, steps)
        how = f"{gradient.how} of {told}"
        found = Gradient(gradient.mean, gradient.standard_error, gradient.rounding, how)
        return Found(found)


def _named(objectives: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(objectives, Mapping):
        named = dict(objectives)
    elif isinstance(objectives, Sequence) and not isinstance(objectives, str):
        named = {}
        for objective in objectives:
            name = plain = type(objective).__name__
            number = 2
            while name in named:
                name, number = f"{plain} ({number})", number + 1
            named[name] = objective
    else:
        raise InvalidArgument(
            f"{_NAME}: expected objectives by name, got {type(objectives).__name__}; e.g. "
            "{'pathwise': dsvi.PathwiseELBO()}"
        )
    if not named:
        raise InvalidArgument(f"{_NAME}: there is no objective to compare")
    for objective in named.values():
        refuse_other_than_objective(objective, _NAME)
    return named


def _check_reference(reference: Any, named: Mapping[str, Any]) -> None:
    if isinstance(reference, str) and reference not in named:
        raise InvalidArgument(
            f"{_NAME}: the reference {reference!r} is none of the objectives {sorted(named)}"
        )
    if reference is not None and not isinstance(reference, Reference | Objective | str):
        raise InvalidArgument(
            f"{_NAME}: expected a reference, got {reference!r}; e.g. "
            "dsvi.diagnostics.Enumeration(), an objective, or the name of one"
        )
