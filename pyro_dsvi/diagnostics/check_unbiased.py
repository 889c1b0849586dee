r"""Is an objective's gradient that of its bound?  A certificate, parameter by parameter.

The reference is exact where the guide's draws can be enumerated, else another unbiased estimator's;
either rests on the bound's value at given draws and on nothing of the estimator in question.  The
estimate's expectation is exact as well where the particles' draws are all that a step leaves to
chance and are not too many: each is visited once.  Else it is the mean of many steps.

Samples cannot prove that there is no bias, only that there is none above some size, so a
certificate says what it would have seen.
"""

from collections.abc import Callable
from typing import Any

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.certificate import Certificate, check_level, compare
from pyro_dsvi.diagnostics.enumeration import Enumeration
from pyro_dsvi.diagnostics.estimates import sampled, step, visited
from pyro_dsvi.diagnostics.gradient import Gradient
from pyro_dsvi.diagnostics.handlers import SameMinibatch
from pyro_dsvi.diagnostics.prepared import (
    at_rest,
    bound_of,
    on_trial,
    refuse_other_than_objective,
)
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Found, Reference
from pyro_dsvi.diagnostics.second_estimator import SecondEstimator
from pyro_dsvi.errors import InvalidArgument, NoReference

_FEWEST_SAMPLES = 100  # for the means to be near normal
_WARM_UP = 3  # steps after which a baseline has learnt something
_NAME = "check_unbiased"


def check_unbiased(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Any,
    *args: Any,
    num_samples: int = 2000,
    seed: int = 0,
    level: float = 1e-3,
    reference: Reference | None = None,
    bound: Bound | None = None,
    **kwargs: Any,
) -> Certificate:
    """Compare an objective's gradient with an exact one, parameter by parameter.

    The gradient is that of the bound at the parameters as they are, with respect to the
    unconstrained parameters of model and guide (not those of baselines); of a subsampled plate it
    is that for one minibatch, the same throughout.  Baselines learn in the course of the steps;
    parameters stay where they are.  Generators, parameters and their gradients, and what the
    objective has learnt are left as they were found.  Warnings of the objective are silenced.

    Args:
        model: the model.
        guide: the guide.
        objective: any ``pyro.infer.ELBO``, ours or not, or anything else with ``loss_and_grads``.
        args: positional arguments of model and guide.
        num_samples: steps to average; where there are no more joint draws than that, and a step
            leaves nothing else to chance, each is visited once instead.
        seed: what the steps and the minibatch are drawn from.
        level: probability of calling any parameter of an unbiased objective biased.
        reference: where the right gradient comes from.  None: :class:`Enumeration` where that can
            be, else a :class:`SecondEstimator`.
        bound: the bound whose gradient the objective is to have.  None: its own, and the ELBO for
            Pyro's objectives that estimate it.
        kwargs: keyword arguments of model and guide.

    Returns:
        A row for each parameter; prints as a table.  ``.unbiased`` is the outcome in a word.

    Raises:
        InvalidArgument: if an argument cannot work, or it is not known what the objective
            estimates.
        NoReference: if draws can neither be enumerated nor estimated in a second way.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Bernoulli(logits=pyro.param("eta", torch.tensor(0.3))))
        >>> objective = dsvi.ScoreFunctionELBO(dsvi.MovingAverage())
        >>> print(dsvi.diagnostics.check_unbiased(model, guide, objective))
        gradient of Evidence(), 1 particle
        estimate:  every joint draw visited (2), weighted by its probability
        reference: enumeration of the 2 joint draws of z
        <BLANKLINE>
        parameter  elements  worst       mean  reference  standard error     z  verdict
        eta               1      -  0.0488917  0.0488917               0  0.00  unbiased
        <BLANKLINE>
        unbiased: the two agree within rounding
    """
    _check_arguments(objective, num_samples, reference)
    check_level(level)
    target = bound if bound is not None else bound_of(objective, _NAME)
    _refuse_apart(target)
    particles = getattr(objective, "num_particles", 1)
    programs = Programs(model, guide, args, kwargs)
    with (
        at_rest(programs, seed),
        SameMinibatch(seed),
        on_trial(objective, programs, _NAME) as tested,
    ):
        found = _reference(reference, programs, target, particles, tested)
        estimate = _estimate(tested, programs, found, particles, num_samples)
    told = f"{target!r}, {particles} particle{'s' * (particles != 1)}"
    return compare(estimate, found.gradient, bound=told, level=level)


def _check_arguments(objective: Any, num_samples: int, reference: Any) -> None:
    refuse_other_than_objective(objective, _NAME)
    if num_samples < _FEWEST_SAMPLES:
        raise InvalidArgument(
            f"check_unbiased: num_samples must be at least {_FEWEST_SAMPLES}, got {num_samples}"
        )
    if reference is not None and not isinstance(reference, Enumeration | SecondEstimator):
        raise InvalidArgument(
            f"check_unbiased: expected a reference, got {reference!r}; e.g. "
            "dsvi.diagnostics.Enumeration()"
        )


def _refuse_apart(bound: Bound) -> None:
    if bound.guide is not bound:
        raise InvalidArgument(
            f"check_unbiased: under {bound!r} the guide follows {bound.guide!r}, not the model's "
            "bound, so no one function has their gradient; check an objective of each by itself"
        )


def _reference(
    asked: Reference | None, programs: Programs, bound: Bound, particles: int, tested: Any
) -> Found:
    if asked is not None:
        return asked.find(programs, bound, particles, tested)
    try:
        return Enumeration().find(programs, bound, particles, tested)
    except NoReference as first:
        try:
            return SecondEstimator().find(programs, bound, particles, tested)
        except NoReference as second:
            raise NoReference(
                f"the guide's draws cannot be enumerated ({first}), and there is no second "
                f"estimator ({second}); check the objective on a smaller program, with fewer "
                "elements in its plates"
            ) from second


def _estimate(
    tested: Any, programs: Programs, found: Found, particles: int, num_samples: int
) -> Gradient:
    for _ in range(_WARM_UP):
        step(tested, programs)
    if found.gradient.exact and len(found.draws) ** particles <= num_samples:
        estimate = visited(tested, programs, found.draws, particles)
        if estimate is not None:
            return estimate
    return sampled(tested, programs, num_samples)
