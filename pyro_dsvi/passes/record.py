"""What one execution of a program did, site by site, and what reached each site."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample

from pyro_dsvi.errors import EmptyPlate
from pyro_dsvi.graph.influence import Influence


class Record(Messenger):
    """Keeps the messages of the sample sites it sees, in order.

    Like Pyro's trace, without copying messages or building edges.

    Attributes:
        sites: messages of sample sites by name, subsampling sites apart.
        subsamples: messages of the plates' subsampling sites by name.
        reach: bit set of the latents that reach each site's log density; empty where influence is
            not followed.
        reach_of_law: the same without what reaches it through the site's own value alone.
    """

    def __init__(self, influence: Influence | None) -> None:
        super().__init__()
        self.influence = influence
        self.sites: dict[str, Any] = {}
        self.subsamples: dict[str, Any] = {}
        self.reach: dict[str, int] = {}
        self.reach_of_law: dict[str, int] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            _refuse_empty(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            self.subsamples[name] = msg
            return
        if msg["infer"].get("_do_not_trace"):
            return
        if name in self.sites:
            raise RuntimeError(f"two sample sites are named {name!r}")
        self.sites[name] = msg
        if self.influence is not None:
            self._follow(msg, self.influence)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, ZeroDivisionError):
            _refuse_empty_minibatch(error, traceback)

    def _follow(self, msg: Any, influence: Influence) -> None:
        """Note what reaches the site's log density."""
        law = self._reach_of_law(msg, influence, influence.of(msg["fn"]))
        self.reach_of_law[msg["name"]] = law
        self.reach[msg["name"]] = law | influence.of(msg["value"])

    def _reach_of_law(self, msg: Any, influence: Influence, reach: int) -> int:
        """What reaches a site's distribution, arguments, scale and mask."""
        for key in ("args", "kwargs", "scale", "mask"):
            part = msg[key]
            if part is not None and type(part) is not float:
                reach |= influence.of(part)
        return reach | influence.escaped


def running() -> Record | None:
    """The record of the program that is being run, if one of ours is."""
    return next((m for m in reversed(_PYRO_STACK) if isinstance(m, Record)), None)


def _refuse_empty(msg: Any) -> None:
    plate = msg["fn"]
    if plate.size == 0 or plate.subsample_size == 0:
        raise _empty(msg["name"], "size" if plate.size == 0 else "subsample_size")


def _refuse_empty_minibatch(error: ZeroDivisionError, traceback: Any) -> None:
    """Say which plate it was, if the division is that of a plate's scale by its minibatch."""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    if frame.f_globals.get("__name__") == "pyro.poutine.subsample_messenger":
        raise _empty(frame.f_locals["self"].name, "subsample_size") from error


def _empty(plate: str, part: str) -> EmptyPlate:
    return EmptyPlate(
        f"plate {plate!r} has {part} 0; skip the plate, or the step, where there is no data"
    )
