r"""How near a guide is to the posterior, from its importance weights.

.. math:: w_s = \frac{p(x, z_s)}{q(z_s)}, \qquad \log p(x) \approx \log \frac1S \sum_s w_s

References:
    :cite:p:`yao2018vi`
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pyro_dsvi.bounds import IWAE
from pyro_dsvi.diagnostics.handlers import SameMinibatch, Unannotated
from pyro_dsvi.diagnostics.prepared import at_rest
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.selection import SeenMinibatches
from pyro_dsvi.diagnostics.weights import ImportanceWeights, WeightGroup
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.graph.surrogate import Assembled
from pyro_dsvi.objective import Objective

_FEWEST = 25  # a tail of five draws
_HIDDEN = ("estimator", "frozen", "enumerate")  # all sites are to be drawn from the guide


def importance_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    **kwargs: Any,
) -> ImportanceWeights:
    """Pareto k̂, effective sample size and the corrected evidence, and what they mean.

    Latents are weighed per element of the plates that all terms share (so a datum of an
    autoencoder has weights of its own), and jointly otherwise.  Generators, parameters and
    gradients are left as they were found.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of model and guide.
        num_samples: S, draws of the guide; at least 25.
        batch_size: how many of them to run side by side, where the programs allow that.
        seed: what they are drawn from.
        kwargs: keyword arguments of model and guide.

    Returns:
        A report; prints as a table with words on what it means.

    Raises:
        InvalidArgument: if an argument cannot work, or joint weights would rest on a minibatch.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(0.5, 1.0))
        >>> found = dsvi.diagnostics.importance_weights(model, guide)
        >>> off = found.log_evidence + 1.5155  # log N(1; 0, 2)
        >>> found.reliable, abs(off) < 3 * found.standard_error
        (True, True)
    """
    if num_samples < _FEWEST or batch_size < 1:
        raise InvalidArgument(
            f"importance_weights: num_samples must be at least {_FEWEST} and batch_size at least "
            f"1, got {num_samples} and {batch_size}"
        )
    programs = Programs(model, guide, args, kwargs)
    seen = SeenMinibatches()
    with at_rest(programs, seed), torch.no_grad(), seen, SameMinibatch(seed):
        programs = replace(programs, guide=Unannotated(_HIDDEN)(guide))
        found = _in_batches(programs, num_samples, batch_size)
        if found is None:  # the programs branch, so that batches are no alike
            found = [_weigh(programs, num_samples)]
    _refuse_joint_minibatch(found[0], seen)
    groups = tuple(_group([each.bundles[i] for each in found]) for i in range(_count(found[0])))
    constant = float(np.mean([_constant(each) for each in found]))
    return ImportanceWeights(groups, constant, num_samples)


def _in_batches(programs: Programs, num_samples: int, batch_size: int) -> list[Assembled] | None:
    sizes = [batch_size] * (num_samples // batch_size)
    if num_samples % batch_size:
        sizes.append(num_samples % batch_size)
    objectives = {size: Objective(IWAE(), num_particles=size) for size in set(sizes)}
    found = [_weigh(programs, size, objectives[size]) for size in sizes]
    kinds = {tuple((g.latents, g.shared, g.log_w.shape[1:]) for g in f.bundles) for f in found}
    return found if len(kinds) == 1 else None


def _weigh(programs: Programs, size: int, objective: Objective | None = None) -> Assembled:
    objective = objective or Objective(IWAE(), num_particles=size)
    return objective.assemble(programs.model, programs.guide, programs.args, dict(programs.kwargs))


def _count(found: Assembled) -> int:
    if not found.bundles:
        raise InvalidArgument(
            "importance_weights: no latent of the guide reaches any term; there is nothing to weigh"
        )
    return len(found.bundles)


def _group(bundles: list[Any]) -> WeightGroup:
    first = bundles[0]
    log_w = torch.cat([bundle.log_w for bundle in bundles]).cpu().numpy()
    log_w = log_w.reshape(len(log_w), *(size for size in log_w.shape[1:] if size > 1))
    return WeightGroup(
        tuple(sorted(first.latents)), tuple(sorted(first.shared)), log_w, first.weight
    )


def _constant(found: Assembled) -> float:
    """The terms of the bound's value that stand in no group."""
    bound = IWAE()
    sums = (float(bound.value(g.log_w).sum()) * g.weight for g in found.bundles)
    return float(found.value) - sum(sums)


def _refuse_joint_minibatch(found: Assembled, seen: SeenMinibatches) -> None:
    for group in found.bundles:
        for name in group.merged & set(seen.sizes):
            part, size = len(seen.indices[name]), seen.sizes[name]
            raise InvalidArgument(
                f"importance_weights: plate {name!r} takes {part} of {size} elements, but latents "
                f"outside of it ({', '.join(sorted(group.latents))}) are weighed by all data; call "
                "it on programs without subsample_size"
            )
