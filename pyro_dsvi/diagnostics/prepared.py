"""Programs and objectives made ready to be measured, and left as they were found."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceTailAdaptive_ELBO

from pyro_dsvi.bounds import Bound, Evidence
from pyro_dsvi.diagnostics.handlers import Unannotated
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.undisturbed import Kept, Memory, parameters_of, undisturbed
from pyro_dsvi.errors import DSVIError, DSVIWarning, InvalidArgument
from pyro_dsvi.objective import Objective

_EVIDENCE = (Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO)
_WARM_UP = 3  # runs after which lazy parameters and baselines are there
_LOOKS = 8  # runs in which to meet the parameters of programs that branch


@contextmanager
def at_rest(programs: Programs, seed: int) -> Iterator[None]:
    """Run programs from a seed; restore generators, parameters and gradients, silence warnings.

    Args:
        programs: the programs.
        seed: what everything inside is drawn from.
    """
    with undisturbed(programs.model, programs.guide), warnings.catch_warnings():
        warnings.simplefilter("ignore", DSVIWarning)
        with torch.enable_grad(), programs:
            pyro.set_rng_seed(seed)
            yield


@contextmanager
def on_trial(objective: Any, programs: Programs, caller: str) -> Iterator[Any]:
    """A copy of an objective that may learn; what it shares with the user's goes back at the end.

    Args:
        objective: the objective.
        programs: the programs it will run.
        caller: who asks, for messages.

    Raises:
        InvalidArgument: if it is no objective, or cannot be copied.
    """
    tested = _copied(objective, caller)
    _set_up(tested, programs)
    memory, kept = Memory(tested), Kept(parameters_of(tested))
    try:
        yield tested
    finally:  # a baseline that is named at a site is the user's own
        memory.recall()
        kept.restore()


def bound_of(objective: Any, caller: str) -> Bound:
    """The bound that an objective estimates.

    Raises:
        InvalidArgument: if that is not known.
    """
    if isinstance(objective, Objective):
        return objective.bound
    if isinstance(objective, _EVIDENCE) and not isinstance(objective, TraceTailAdaptive_ELBO):
        return Evidence()
    raise InvalidArgument(
        f"{caller}: it is not known which bound {type(objective).__name__} estimates; say it "
        "by bound=..., e.g. bound=dsvi.bounds.Evidence()"
    )


def refuse_other_than_objective(objective: Any, caller: str) -> None:
    """Refuse what has no gradient to give.

    Raises:
        InvalidArgument: if it has no ``loss_and_grads``.
    """
    if not callable(getattr(objective, "loss_and_grads", None)):
        raise InvalidArgument(
            f"{caller}: expected an objective with loss_and_grads, got {objective!r}; "
            "e.g. dsvi.MixedELBO()"
        )


def meet_parameters(programs: Programs) -> None:
    """Let the programs show their parameters, those without a name among them.

    A plain objective shows them, so that what a tested one learns beside them is not among them.
    """
    plain = Objective(Evidence(), vectorize_particles=False)
    bare = replace(programs, guide=Unannotated()(programs.guide))
    for _ in range(_LOOKS):
        with programs.watch() as watched:
            loss = torch.zeros(())
            try:
                loss = plain.differentiable_loss(bare.model, bare.guide, *bare.args, **bare.kwargs)
            except (DSVIError, NotImplementedError):  # programs for an objective of another kind
                _run_both(programs)
        programs.meet(watched, loss)


def _run_both(programs: Programs) -> None:
    with pyro.poutine.trace() as drawn:
        programs.guide(*programs.args, **programs.kwargs)
    with pyro.poutine.replay(trace=drawn.trace):
        programs.model(*programs.args, **programs.kwargs)


def _copied(objective: Any, caller: str) -> Any:
    try:
        return copy.deepcopy(objective)
    except Exception as error:  # whatever an attribute of the user's may raise
        raise InvalidArgument(
            f"{caller}: {type(objective).__name__} cannot be copied ({error}), so what it "
            "learns in the course of the check could not be undone"
        ) from error


@torch.no_grad()
def _set_up(tested: Any, programs: Programs) -> None:
    """Run everything, so that lazy parameters are there and the objective has met its baselines."""
    for _ in range(_WARM_UP):
        programs.guide(*programs.args, **programs.kwargs)
        if isinstance(tested, Objective):
            tested.loss(programs.model, programs.guide, *programs.args, **programs.kwargs)
