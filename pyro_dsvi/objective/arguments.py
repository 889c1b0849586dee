"""What an objective may be made with; the rest is refused before any program runs."""

from typing import Any

from pyro_dsvi.bounds import Bound
from pyro_dsvi.compiled import Compilation
from pyro_dsvi.errors import InvalidArgument, check_whole
from pyro_dsvi.graph.nested import check_local_particles


def check_arguments(
    objective: str,
    bound: Any,
    num_particles: Any,
    local_particles: Any,
    chunk: Any,
    *,
    fewest: int,
    frozen: Any,
    analytic_kl: Any,
    compiled: Any,
) -> None:
    """Refuse what cannot work under any program.

    Args:
        objective: the objective's name, for the message.
        bound: the bound.
        num_particles: draws of the guide in a step.
        local_particles: particles of latents inside plates for each of these draws, or None.
        chunk: particles held at once, or None.
        fewest: particles that the objective needs, whatever the bound.
        frozen: whether the guide's densities are frozen.
        analytic_kl: whether closed forms stand in for sampled densities.
        compiled: whether steps are recorded, or the settings.

    Raises:
        InvalidArgument: if an argument cannot work.
    """
    if not isinstance(bound, Bound):
        raise InvalidArgument(
            f"{objective}: expected a bound, got {bound!r}; e.g. dsvi.bounds.Evidence()"
        )
    fewest = max(fewest, bound.min_particles)
    check_whole(f"{objective}: num_particles", num_particles, fewest)
    if not isinstance(frozen, bool):
        raise InvalidArgument(
            f"{objective}: frozen must be True or False, got {frozen!r}; "
            "a mix of frozen and live sites is biased"
        )
    if analytic_kl and not bound.additive:
        raise InvalidArgument(
            f"{objective}: analytic_kl needs an additive bound, got {type(bound).__name__}; "
            "use dsvi.bounds.Evidence()"
        )
    if not isinstance(compiled, (bool, Compilation)):
        raise InvalidArgument(
            f"{objective}: compiled must be True, False or a dsvi.Compilation, got {compiled!r}"
        )
    _check_number(objective, bound, num_particles, local_particles)
    _check_chunk(objective, chunk, compiled)
    check_local_particles(objective, local_particles, bound, chunk)


def _check_number(objective: str, bound: Bound, num_particles: int, local_particles: Any) -> None:
    """A bound may be made for one number of the particles that stand under it."""
    local = local_particles is not None
    given, word = (local_particles, "local_") if local else (num_particles, "num_")
    if bound.num_particles not in (None, given):
        raise InvalidArgument(
            f"{objective}: {bound!r} is made for {bound.num_particles} particles, "
            f"got {word}particles={given}; pass {word}particles={bound.num_particles}"
        )


def _check_chunk(objective: str, chunk: Any, compiled: Any) -> None:
    """Refuse a number of particles to hold that cannot work, or that a recorded step has not."""
    check_whole(f"{objective}: chunk", chunk, 1, or_none=True)
    if chunk is not None and compiled:
        raise InvalidArgument(
            f"{objective}: chunk={chunk} with compiled={compiled!r}: a recorded step holds all "
            "particles at once; leave one of the two out"
        )
