"""Where whole supports go: a tensor dimension for each enumerated site, left of all plates.

Pyro's own messenger allocates the dimensions and sets the values; in the guide it stands around our
pass, which says for which sites, and in the model inside it, where sites of the model alone get
dimensions further to the left.  So nothing is allocated, and no handler stands in the way, until a
site asks for its support: then :class:`PlatesUnknown` stops the step, the plates are counted, and
the step begins again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro.poutine.enum_messenger import EnumMessenger

from pyro_dsvi.errors import DSVIError, IncompatibleSite, InvalidArgument
from pyro_dsvi.passes.record import Record

# What torch says when Python asks for the one value of a tensor that has several.
_NOT_ONE_VALUE = (
    "more than one value is ambiguous",
    "cannot be converted to Scalar",
    "only one element tensors can be converted",
    "of a single element can be converted",
)


class PlatesUnknown(Exception):
    """A site asks for its whole support before anyone has counted the plates."""


class Support(EnumMessenger):
    """Gives a site that is marked for it the whole support as its value.

    Args:
        plates: dimensions that plates take up, from the right.
        drawn: sites whose value the guide provides, whatever their mark, so that the model goes on
            to the left of what the guide has taken; None in the guide.

    Raises:
        InvalidArgument: if there are more plates than that.
        IncompatibleSite: if a site that is marked has no finite support.
    """

    def __init__(self, plates: int, drawn: Mapping[str, Any] | None = None) -> None:
        super().__init__(-1 - plates if drawn is None else None)
        self.plates = plates
        self.drawn = drawn or {}

    def _pyro_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.dim is not None and -frame.dim > self.plates:
                raise InvalidArgument(
                    f"site {msg['name']!r}: plate {frame.name!r} is at dimension {frame.dim}, left "
                    f"to enumerated sites, as {self.plates} plate dimensions were declared by "
                    "max_plate_nesting, or found in the first run; raise it"
                )
        if msg["name"] in self.drawn:
            msg["infer"].pop("enumerate", None)
        try:
            super()._pyro_sample(msg)
        except NotImplementedError as error:
            raise IncompatibleSite(
                f"site {msg['name']!r}: {type(msg['fn']).__name__} has no finite support to "
                f"enumerate ({error}); draw the site in the guide"
            ) from error


def is_whole(msg: Any) -> bool:
    """Whether a site has taken its whole support as its value."""
    return msg["infer"].get("_enumerate_dim") is not None


@contextmanager
def taken_whole(*records: Record) -> Iterator[None]:
    """Say which sites have several values at once where Python asks for one.

    Raises:
        IncompatibleSite: in the place of torch's own error.
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        names = sorted({n for r in records for n, msg in r.sites.items() if is_whole(msg)})
        asked = any(words in str(error) for words in _NOT_ONE_VALUE)
        if not names or not asked or isinstance(error, DSVIError):
            raise
        raise IncompatibleSite(
            f"site {', '.join(map(repr, names))}: the value is the whole support at once, of "
            f"which Python asks for one value ({error}); write the program without if, int() "
            "and .item() on it (torch.where, indexing), or use dsvi.estimators.ScoreFunction()"
        ) from error
