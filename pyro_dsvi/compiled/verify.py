"""A replay compared with the program: from the same state and the same random stream.

The program's own step is taken first and is the one that counts; the replay is run on the side, and
what it changed is put back.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_dsvi.compiled.randomness import RandomState

_RELATIVE = {torch.float64: 1e-6, torch.float32: 2e-3}


def disagreement(
    program: Callable[[], Sequence[Tensor]],
    replay: Callable[[], Sequence[Tensor]],
    state: Sequence[Tensor],
    keep: Callable[[], Callable[[], None]],
    updated: Sequence[Tensor] = (),
) -> str | None:
    """Take the program's step, and compare the replay with it.

    Args:
        program: takes the step; its result and its effects stay.
        replay: does the same by replay; its effects are undone.
        state: the tensors that either of them writes in place.
        updated: those of the state that an optimizer has moved.  Where a gradient is but
            rounding, Adam makes a step of noise of full size; so half of the elements have to
            agree, and the moments of the gradients, which are state as well, answer for the others.
        keep: notes other state, and gives a function that puts it back.

    Returns:
        How they disagree, in words, or None.
    """
    random, before, put_back = RandomState.now(), _copy(state), keep()
    result = program()
    random_after, after, put_after = RandomState.now(), _copy(state), keep()
    random.restore()
    _put(state, before)
    put_back()
    try:
        replayed = replay()
        stream = RandomState.now()
        states = _copy(state)
    except Exception as error:  # the replay is on trial
        first_line = (str(error).splitlines() or [""])[0]
        return f"the replay raised {type(error).__name__}: {first_line}"
    finally:
        random_after.restore()
        _put(state, after)
        put_after()
    if not stream.same(random_after):
        return "the replay draws other random numbers than the program"
    if 1 < len(replayed) != len(result) or len(result) < len(replayed):
        return "the replay reaches other parameters than the program"
    result = result[: len(replayed)]
    what = ["the loss", *["a gradient"] * (len(result) - 1)]
    what += ["a tensor of the state"] * len(after)
    noisy = {id(x) for x in updated}
    may_differ = [False] * len(result) + [id(x) in noisy for x in state]
    around = max(map(_size, result), default=0.0)
    pairs = zip([*replayed, *states], [*result, *after], strict=True)
    for name, half, (ours, theirs) in zip(what, may_differ, pairs, strict=True):
        if not close(ours, theirs, around, half):
            shown = f" ({ours.item():.6g}, not {theirs.item():.6g})" if ours.numel() == 1 else ""
            return f"{name} of the replay is not that of the program{shown}"
    return None


def close(ours: Tensor, theirs: Tensor, around: float = 0.0, half: bool = False) -> bool:
    """Whether two tensors agree but for rounding, relative to their size as a whole.

    Args:
        ours: the one.
        theirs: the other.
        around: size of what they were computed beside: what cancels leaves noise of that size.
        half: whether it is enough that half of the elements agree.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not ours.dtype.is_floating_point:
        return torch.equal(ours, theirs)
    finite = theirs.isfinite()
    if not torch.equal(finite, ours.isfinite()):
        return False
    if not torch.equal(ours[~finite].nan_to_num(), theirs[~finite].nan_to_num()):
        return False
    relative = _RELATIVE.get(ours.dtype, 2e-2)
    ours, theirs = ours[finite].double(), theirs[finite].double()
    if not len(theirs):
        return True
    error = (ours - theirs).abs()
    error = error.median() if half else error.max()
    return bool(error <= relative * (_size(theirs) + 1e-4 * around))


def _size(x: Tensor) -> float:
    x = x[x.isfinite()]
    return x.abs().max().item() if len(x) else 0.0


def _copy(state: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in state]


def _put(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(state, values, strict=True):
            tensor.detach().copy_(value)
