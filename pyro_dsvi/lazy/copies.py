"""Equal copies side by side, as ``expand`` makes them: what is the same for all is done once."""

from typing import Any

from torch import Tensor


def compact(x: Tensor, dims: int | None = None) -> Tensor:
    """Leave one of equal copies along each dimension that was expanded.

    Args:
        x: a tensor.
        dims: look at so many of its dimensions only, from the left.
    """
    strides, sizes = x.stride()[:dims], x.shape[:dims]
    if all(stride or size == 1 for stride, size in zip(strides, sizes, strict=True)):
        return x
    index: Any = tuple(slice(None) if stride else slice(0, 1) for stride in strides)
    return x[index]


def copies_of(place: Tensor, event: int) -> tuple[int, ...]:
    """Sizes of a view's left dimensions, one where it repeats the same elements.

    Args:
        place: a tensor with the view's strides.
        event: how many of its dimensions, from the right, are left out.
    """
    lead = place.dim() - event
    pairs = zip(place.shape[:lead], place.stride()[:lead], strict=True)
    return tuple(size if stride else 1 for size, stride in pairs)
