"""Where the variance of a step's gradient comes from: minibatches, draws, terms, data, sites.

Minibatches are crossed with draws within them, and each step is repeated on the same draws with all
terms of the log weight but some masked.  All parts are unbiased estimates: what the draws' noise
adds to the spread of means over draws is taken out again, so that a part that is zero may come out
slightly negative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_dsvi.diagnostics.analysis import Analysis, Looked
from pyro_dsvi.diagnostics.decomposition import Decomposition, Split
from pyro_dsvi.diagnostics.estimates import step
from pyro_dsvi.diagnostics.parameters_by_site import parameters_by_site
from pyro_dsvi.diagnostics.plan import Plan, what_adds_up
from pyro_dsvi.diagnostics.prepared import (
    at_rest,
    bound_of,
    meet_parameters,
    on_trial,
    refuse_other_than_objective,
)
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.scenes import Stage
from pyro_dsvi.errors import InvalidArgument

_NAME = "variance_decomposition"
_WARM_UP = 20  # steps in which a moving average finds its place


def variance_decomposition(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Any,
    *args: Any,
    num_minibatches: int = 24,
    num_draws: int = 16,
    num_elements: int = 4,
    seed: int = 0,
    **kwargs: Any,
) -> Decomposition:
    """Part the variance of an objective's gradient, and of its bound's estimate.

    Minibatches are those of subsampled plates.  Parameters stay as they are, and so does what the
    objective has learnt, after a few steps to learn it; generators, parameters and their gradients
    are left as they were found.

    Args:
        model: the model.
        guide: the guide.
        objective: any ``pyro.infer.ELBO``, or anything else with ``loss_and_grads``.
        args: positional arguments of model and guide.
        num_minibatches: minibatches to look at; where there are no more, each is visited once.
        num_draws: draws within a minibatch; where there are no more joint draws (of a Normal site,
            16 nodes of quadrature for each element), each is visited once.
        num_elements: elements of each plate whose shares are looked at one by one.
        seed: what everything is drawn from.
        kwargs: keyword arguments of model and guide.

    Returns:
        The parts, for the bound's value, for each parameter and for all, with advice.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> def model():
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", 4, subsample_size=2) as i:
        ...         pyro.sample("x", dist.Normal(w, 1.0), obs=x[i])
        >>> def guide():
        ...     pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(2.0)), 0.5))
        >>> found = dsvi.diagnostics.variance_decomposition(model, guide, dsvi.PathwiseELBO())
        >>> split = found["m"].variance  # (N + 1)² s², and N² (1/M - 1/N) times the data's variance
        >>> round(split.latent, 3), round(split.minibatch, 3)
        (6.25, 6.667)
    """
    refuse_other_than_objective(objective, _NAME)
    _check(num_minibatches, num_draws, num_elements)
    programs = Programs(model, guide, args, kwargs)
    with at_rest(programs, seed), on_trial(objective, programs, _NAME) as tested:
        bound = bound_of(objective, _NAME)
        meet_parameters(programs)
        for _ in range(_WARM_UP):
            step(tested, programs)
        stage = Stage(tested, programs, bound, num_draws)
        minibatches, subsampled, every = stage.minibatches(num_minibatches)
        seen = stage.scout(minibatches[0])
        adds_up, notes = what_adds_up(stage, minibatches, seen)
        found = []
        for minibatch in minibatches:
            plan = Plan.of(adds_up, num_elements)
            found.append(Looked(plan, stage.moments(minibatch, plan.selections)))
            if not subsampled and found[-1].moments.draws == float("inf"):
                break  # there is nothing else to see
        sites = parameters_by_site(programs)
    draws = found[0].moments.draws
    exact = draws == float("inf") and every
    analysis = Analysis(found, every, subsampled)
    blocks = _blocks(programs.parameters)
    parameters = {name: analysis.part(block) for name, block in blocks.items()}
    by_site = {
        site: _sum([parameters[name].variance for name in names]) for site, names in sites.items()
    }
    particles = getattr(objective, "num_particles", 1)
    return Decomposition(
        analysis.part(slice(0, 1)),
        analysis.part(slice(1, None)),
        parameters,
        by_site,
        f"{type(objective).__name__} with {particles} particle{'s' * (particles != 1)}",
        bound.additive,
        particles,
        len(found),
        draws,
        exact,
        tuple(notes),
    )


def _check(num_minibatches: int, num_draws: int, num_elements: int) -> None:
    if num_minibatches < 2 or num_draws < 2 or num_elements < 1:
        raise InvalidArgument(
            f"{_NAME}: num_minibatches and num_draws must be at least 2 and num_elements at least "
            f"1, got {num_minibatches}, {num_draws} and {num_elements}"
        )


def _sum(splits: Sequence[Split]) -> Split:
    return Split(sum(s.latent for s in splits), sum(s.minibatch for s in splits))


def _blocks(parameters: Mapping[str, Tensor]) -> dict[str, slice]:
    blocks, start = {}, 1
    for name, leaf in parameters.items():
        blocks[name] = slice(start, start + leaf.numel())
        start += leaf.numel()
    return blocks
