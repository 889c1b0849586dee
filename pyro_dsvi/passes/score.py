"""The second pass: run the model at the values that the guide drew."""

from typing import Any

from pyro.poutine.util import site_is_subsample

from pyro_dsvi.errors import SiteMismatch
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.passes.enumeration import PlatesUnknown
from pyro_dsvi.passes.minibatch import prepare_minibatch
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.sample import reuse
from pyro_dsvi.strategy import is_marked


class Score(Record):
    """Records the model's run at the guide's values.

    Args:
        drawn: messages of the guide's sample sites, with the values to use.
        subsamples: messages of the guide's subsampling sites.
        influence: what followed the guide, or None.
        plates: dimensions that plates take up, where a site of the model alone may take its whole
            support, further left; None where it may not yet.
    """

    def __init__(
        self,
        drawn: dict[str, Any],
        subsamples: dict[str, Any],
        influence: Influence | None,
        *,
        plates: int | None = None,
    ) -> None:
        super().__init__(influence)
        self.plates = plates
        self.drawn = drawn
        self.given = subsamples

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if name in self.given:
            reuse(msg, self.given[name])
        elif msg["is_observed"]:
            return
        elif site_is_subsample(msg):
            prepare_minibatch(msg)
        elif name not in self.drawn:
            if not is_marked(msg["infer"]):
                raise not_in_guide(name)
            if self.plates is None:
                raise PlatesUnknown
        elif self.drawn[name]["is_observed"]:
            raise SiteMismatch(
                f"site {name!r}: the model samples it, but the guide observes it; "
                "sample it in the guide"
            )
        else:
            reuse(msg, self.drawn[name])
            _agree(name, msg["fn"], self.drawn[name]["fn"], self.plates)


def not_in_guide(name: str) -> SiteMismatch:
    """The error for a latent of the model that the guide does not draw."""
    return SiteMismatch(
        f"site {name!r}: the model samples it, but the guide does not; "
        "sample it in the guide too, or observe it in the model; a site with finite support may "
        "be summed out instead: mark it infer={'enumerate': 'parallel'} in the model"
    )


def _agree(name: str, p: Any, q: Any, plates: int | None) -> None:
    """Refuse a site at which model and guide draw different shapes."""
    try:
        ours, theirs = (p.batch_shape, p.event_shape), (q.batch_shape, q.event_shape)
    except AttributeError:  # not a torch distribution
        return
    if plates is not None:  # one of them may depend on an enumerated site, and the other not
        ours, theirs = ((_of_plates(batch, plates), event) for batch, event in (ours, theirs))
    if ours != theirs:
        raise SiteMismatch(
            f"site {name!r}: batch and event shapes disagree, model {_show(ours)}, guide "
            f"{_show(theirs)}; use the same plates and .to_event(...) in both"
        )


def _of_plates(batch: tuple[int, ...], plates: int) -> tuple[int, ...]:
    """A batch shape without the dimensions left of all plates, nor ones on the left."""
    shape = list(batch)[max(0, len(batch) - plates) :]
    while shape and shape[0] == 1:
        del shape[0]
    return tuple(shape)


def _show(shapes: tuple[Any, Any]) -> str:
    return " | ".join(str(tuple(shape)) for shape in shapes)
