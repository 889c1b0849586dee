"""Particles whose noise depends on one another, while each of them keeps its law.

An estimate that is a mean over particles keeps its expectation under any such dependence; only its
variance changes.  So it is with the evidence lower bound, its densities live or frozen, and with
baselines: what a score-function site draws stays independent of all other noise, leave-one-out
included, since only the noise of sites whose estimator differentiates through the draw is touched.

A bound of K samples is no mean, and its expectation does change.  The estimate is then that of
another bound, for any order alpha >= 0 of Rényi's still a lower bound on the log evidence, and its
gradient is unbiased for that one; a warning says so.  With frozen densities the gradient rests on
the particles' independence, and the combination is refused.

References:
    :cite:p:`owen2013`
"""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple
from weakref import ref

from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.errors import (
    DependentParticlesWarning,
    DSVIWarning,
    IncompatibleSite,
    UncontrolledNoiseWarning,
)
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.handlers.reparameterisation import Reparameterisation, reparameterisation
from pyro_dsvi.passes.record import Record, running
from pyro_dsvi.passes.sample import Sample


class Seat(NamedTuple):
    """Where a draw stands among the particles of a step.

    Attributes:
        count: how many particles there are.
        index: which of them is drawn, where they go one by one.
        axis: the noise's axis over particles, where they go side by side; else None.
    """

    count: int
    index: int = 0
    axis: int | None = None


class Coupling(Messenger, ABC):
    """Provides the noise of reparameterised draws.

    Which particle a draw belongs to is known from the plate of particles that stand side by side,
    under an objective of this package or of Pyro's, or from our objective where they go in a loop.
    Values given by other handlers stay as they are, whatever the order of the handlers.
    """

    title: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._record: ref[Record] | None = None
        self._seen: set[str] = set()
        self._said: set[str] = set()

    @abstractmethod
    def begin(self, seat: Seat) -> None:
        """A run of the guide has started."""

    @abstractmethod
    def noise(self, site: str, law: Reparameterisation, seat: Seat) -> Tensor:
        """The noise of one draw, of shape ``law.shape``."""

    # A wrapped guide enters its handler inside the plate of particles, and inside what gives
    # sites their values.  Those come first: the handler stands as far out as messages travel.

    def __enter__(self) -> "Coupling":
        super().__enter__()
        _PYRO_STACK.remove(self)
        place = len(_PYRO_STACK)
        while place and not isinstance(_PYRO_STACK[place - 1], (BlockMessenger, Coupling)):
            place -= 1
        _PYRO_STACK.insert(place, self)
        return self

    def __exit__(self, *error: Any) -> None:
        if self in _PYRO_STACK:
            _PYRO_STACK.remove(self)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_point_mass(msg["fn"]):
            return
        record = running()
        if record is not None and not isinstance(record, Sample):
            return  # a trial, or a run at values that are there already
        name, estimator = msg["name"], _estimator_at(record, msg["name"])
        given = msg["done"] or msg["value"] is not None
        law = None if given or msg["args"] or msg["kwargs"] else reparameterisation(msg["fn"])
        reason = _reason_to_leave(msg["fn"], estimator, given, law)
        if reason is not None:
            self._say(
                UncontrolledNoiseWarning,
                f"site {name!r}: {self.title} leaves its noise as it is: {reason}",
            )
        if reason is not None or law is None:
            return
        seat = _seat(record, msg)
        if seat.count == 1:
            self._say(DSVIWarning, _ALONE.format(self.title))
            return
        self._check_bound(name, record)
        self._check_chunk(name, record)
        if self._is_new_run(name, record):
            self.begin(seat)
        self._seen.add(name)
        msg["value"] = law.value(self.noise(name, law, seat))
        msg["done"] = True

    def _is_new_run(self, name: str, record: Record | None) -> bool:
        previous = None if self._record is None else self._record()
        if record is not None:
            new = record is not previous
            self._record = ref(record)
        else:
            new = self._record is not None or not self._seen or name in self._seen
            self._record = None
        if new:
            self._seen.clear()
        return new

    def _check_bound(self, name: str, record: Sample | None) -> None:
        if record is None or record.additive:
            return
        if record.frozen:
            raise IncompatibleSite(
                f"site {name!r}: {self.title} makes the particles depend on one another, and "
                "frozen densities under a bound that is not additive need independent ones, else "
                "the gradient is biased; use frozen=False, or dsvi.bounds.Evidence()"
            )
        self._say(
            DependentParticlesWarning,
            f"{self.title} makes the particles depend on one another, so this bound of several "
            "samples is not that of independent ones: its value differs, and its gradient is that "
            "of the value estimated; use dsvi.bounds.Evidence() to change the variance alone",
        )

    def _check_chunk(self, name: str, record: Sample | None) -> None:
        if record is not None and record.chunked:
            raise IncompatibleSite(
                f"site {name!r}: {self.title} ties the noise of all particles together, of which "
                "chunk= holds some at a time, and asks for these twice; leave chunk out"
            )

    def _say(self, category: type[DSVIWarning], message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, category, stacklevel=2)


_ALONE = (
    "{} sees one particle at a time and changes nothing; use an objective of this package with "
    "num_particles of at least 2, or one of Pyro's with vectorize_particles=True"
)


def _estimator_at(record: Sample | None, name: str) -> Estimator | None:
    if record is None or name not in record.choices:
        return None
    return record.choices[name].estimator


def _reason_to_leave(
    q: Any, estimator: Estimator | None, given: bool, law: Reparameterisation | None
) -> str | None:
    """Why a draw's noise is not to be touched, where a user should know; else None."""
    kind = type(estimator).__name__
    if given:
        draws_itself = estimator is not None and type(estimator).draw is not Estimator.draw
        return f"{kind} draws by itself" if draws_itself else None
    if estimator is not None and not estimator.passes_gradient:
        return f"{kind} does not differentiate through its draw"
    if law is None:
        return f"{type(q).__name__} does not draw by an inverse distribution function"
    return None


def _seat(record: Sample | None, msg: Any) -> Seat:
    for frame in msg["cond_indep_stack"]:
        if frame.name == PARTICLES and frame.dim is not None:
            return Seat(frame.size, axis=len(msg["fn"].batch_shape) + frame.dim)
    if record is None:
        return Seat(1)
    return Seat(record.num_particles, record.particle)
