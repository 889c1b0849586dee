r"""A plate's minibatch, drawn at a cost that does not grow with the plate.

Floyd's algorithm takes M of N indices by M draws.  At its step :math:`i = 0 \dots M-1` it draws
:math:`t_i` uniformly from :math:`\{0 \dots N-M+i\}`, and takes :math:`t_i`, or :math:`N-M+i` where
:math:`t_i` is taken already.  The :math:`N! / (N-M)!` sequences of draws are equally likely, and
:math:`M!` of them lead to each subset, so every subset of size M is equally likely.

The subset is uniform, its *order* is not: a program that treats the first index of a minibatch
otherwise than the last should shuffle them.

The steps depend on each other only through draws that collide.  Step i collides if an earlier draw
equals :math:`t_i`, or if :math:`t_i = N-M+k` for an earlier step k that collided.  The second is a
chain of pointers from step to step, which collide if the step at its end does, by the first; all
chains are followed at once by doubling.  So :func:`settle` is a fixed list of tensor operations,
which a compiler can fuse, and a GPU runs without asking the host.

References:
    :cite:p:`bentley1987floyd`
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

# Up to this many elements of the plate for one of the minibatch, a permutation is the cheaper way
# in a compiled step (in one that is not, up to some 90, but by microseconds of milliseconds).
_PERMUTED = 32
# Up to this many draws, to compare each with each is cheaper than to sort them.
_PAIRED = 256


def prepare_minibatch(msg: Any) -> None:
    """Let a plate's subsampling site draw by :func:`draw_subset`, if it comes to draw.

    Handlers further out, and Pyro, draw by calling the site's distribution, which is the plate's
    own and made anew with each plate.
    """
    plate = msg["fn"]
    size, count = plate.size, plate.subsample_size
    if plate.use_cuda is not None:
        return  # an old way to name a device, which is left to Pyro
    if type(size) is int and type(count) is int and 0 < count < size:
        plate.sample = partial(draw_subset, size, count, plate.device)


def draw_subset(size: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw a uniformly random subset of ``range(size)``, following torch's random stream.

    Args:
        size: number of elements to draw from.
        count: number of elements to draw, at most ``size``.
        device: where to draw, and by whose random stream.

    Returns:
        ``count`` distinct indices, shape ``[count]``, in no particular order (which is not to say,
        in a random one).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> len(draw_subset(10**9, 64).unique())
        64
    """
    if size <= _PERMUTED * count:
        return torch.randperm(size, device=device)[:count].clone()
    if torch.device(device).type == "cuda":
        return settle(_draws(size, count, device), size)
    return torch.ops.dsvi.draw_subset.default(size, count).to(device)


def settle(draws: Tensor, size: int) -> Tensor:
    r"""The subset to which Floyd's algorithm comes by the given draws.

    Args:
        draws: :math:`t_i \in \{0 \dots N-M+i\}`, shape ``[M]``.
        size: N.

    Returns:
        M distinct indices, shape ``[M]``.
    """
    count = len(draws)
    first = size - count
    step = torch.arange(count, device=draws.device)
    repeats = _repeat(draws)
    before = torch.where(repeats | (draws < first), step, draws - first)
    for _ in range((count - 1).bit_length()):
        before = before[before]
    return torch.where(repeats[before], step + first, draws)


def _repeat(draws: Tensor) -> Tensor:
    """Which draws equal an earlier one."""
    count = len(draws)
    if count <= _PAIRED:
        step = torch.arange(count, device=draws.device)
        same = draws.unsqueeze(1) == draws
        return torch.where(same, step, count).amin(1) < step
    ordered, order = torch.sort(draws, stable=True)
    repeats = torch.cat([order.new_zeros(1, dtype=torch.bool), ordered[1:] == ordered[:-1]])
    return torch.empty_like(repeats).scatter_(0, order, repeats)


def _draws(size: int, count: int, device: torch.device | str) -> Tensor:
    """Uniform draws for Floyd's algorithm; relative bias below ``size / 2**53``."""
    uniform = torch.rand(count, dtype=torch.float64, device=device)
    return (uniform * torch.arange(size - count + 1, size + 1, device=device)).long()


def _draw_on_cpu(size: int, count: int) -> Tensor:
    draws = _draws(size, count, "cpu")
    if len(set(draws.tolist())) == count:  # nearly always; then no step collides
        return draws
    return settle(draws, size)


def draw_by_operations(size: int, count: int) -> Tensor:
    """The same subset by torch's operations alone, for a compiler to fuse."""
    draws = _draws(size, count, "cpu")
    return settle(draws, size)


def _no_draw(size: int, count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device="cpu")


# An operator of its own, since a recorded graph cannot hold the look at the draws.  The tag keeps
# two equal calls from being merged, and the outcome from being taken for a constant.
torch.library.define(
    "dsvi::draw_subset",
    "(int size, int count) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)
torch.library.impl("dsvi::draw_subset", "CompositeExplicitAutograd", _draw_on_cpu)
torch.library.register_fake("dsvi::draw_subset", _no_draw)
