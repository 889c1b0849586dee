"""What the dimensions of an output run over."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

_MARK = "_dsvi_layout"


class Kind(Enum):
    """What one dimension of an output runs over.

    Copies of the weight, independent of one another (particles, for one); examples, each a term of
    the bound by itself; positions within an example, which share its weights; or outputs.
    """

    COPY = "copies of the weight"
    EXAMPLE = "examples"
    POSITION = "positions in an example"
    OUTPUT = "outputs"


@dataclass(frozen=True)
class Layout:
    """Sizes and kinds of an output's dimensions."""

    sizes: tuple[int, ...]
    kinds: tuple[Kind, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """The dimensions that run over more than one position."""
        pairs = enumerate(zip(self.sizes, self.kinds, strict=True))
        return tuple(d for d, (n, kind) in pairs if kind is Kind.POSITION and n != 1)

    @property
    def once(self) -> tuple[int, ...]:
        """The sizes, with one position for all."""
        pairs = zip(self.sizes, self.kinds, strict=True)
        return tuple(1 if kind is Kind.POSITION else n for n, kind in pairs)

    @property
    def once_without_outputs(self) -> tuple[int, ...]:
        """The same without the outputs' dimensions."""
        pairs = zip(self.once, self.kinds, strict=True)
        return tuple(n for n, kind in pairs if kind is not Kind.OUTPUT)


def lead_kinds(
    sizes: Sequence[int], copies: Sequence[bool], plates: Sequence[bool], example_dims: int
) -> tuple[Kind, ...]:
    """Kinds of the dimensions to the left of the outputs.

    Args:
        sizes: their sizes.
        copies: whether the weight itself varies along them.
        plates: whether the weight has them, with size one; such a dimension stands for a plate
            that the weight is not in, and runs over examples if the input varies along it.
        example_dims: how many of the others run over examples, from the left.
    """
    kinds, left = [], example_dims
    for size, copy, plate in zip(sizes, copies, plates, strict=True):
        if copy:
            kinds.append(Kind.COPY)
        elif plate and size == 1:
            kinds.append(Kind.EXAMPLE)
        elif left > 0:
            kinds.append(Kind.EXAMPLE)
            left -= 1
        else:
            kinds.append(Kind.POSITION)
    return tuple(kinds)


def mark(out: Tensor, layout: Layout) -> Tensor:
    """Note on an output what its dimensions run over, for a bias to be added to it."""
    setattr(out, _MARK, layout)
    return out


def layout_of(x: Any) -> Layout | None:
    """What was noted on an output; None for any other tensor."""
    return getattr(x, _MARK, None) if type(x) is Tensor else None
