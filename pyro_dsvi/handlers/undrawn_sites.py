r"""Gaussian sites whose value is left undrawn, for layers to draw their outputs in its place.

The handler puts an undrawn tensor in the place of the guide's draw.  The weight's terms of the
bound, :math:`\log p(w) - \log q(w)`, take a closed form (``analytic_kl=True``), which looks at no
value at all, or are taken at one draw that is independent of the outputs' noise.  Both are unbiased
where the bound is a sum: the mean of a sum knows nothing of the dependence of its terms.
"""

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample

from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.estimators import Pathwise
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.handlers.asking import joint_bound
from pyro_dsvi.handlers.gaussian_laws import gaussian_law
from pyro_dsvi.handlers.tied_batches import WatchBatches
from pyro_dsvi.lazy import RULES, Plan, Root, Undrawn, undrawn
from pyro_dsvi.passes.record import running
from pyro_dsvi.passes.sample import Sample

Select = Callable[[str], bool]


class UndrawnSites(Messenger):
    """Leaves Gaussian draws of the guide undrawn.

    Sites in plates other than the particles' are local to a datum or a group, and are drawn as
    usual; so are sites under a mask of False, which no bound is asked about (``Predictive``).

    Args:
        plan: how outputs are drawn.
        select: which sites, by name; all by default.
    """

    def __init__(self, plan: Plan, select: Select | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.select = select
        self._roots: WeakValueDictionary[str, Root] = WeakValueDictionary()

    # A wrapped guide enters its handler inside the plate of particles, and inside what gives
    # sites their values and masks.  Those come first: the handler stands as far out as messages
    # travel.

    def __enter__(self) -> "UndrawnSites":
        super().__enter__()
        _PYRO_STACK.remove(self)
        place = len(_PYRO_STACK)
        while place and not isinstance(_PYRO_STACK[place - 1], (BlockMessenger, UndrawnSites)):
            place -= 1
        _PYRO_STACK.insert(place, self)
        self._watch = WatchBatches(self.plan.title, self._roots)
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)
        if self in _PYRO_STACK:
            _PYRO_STACK.remove(self)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        record = running()
        if msg["value"] is None and not msg["done"] and self._is_wanted(msg):
            if record is not None and not isinstance(record, Sample):
                return  # a trial of the programs
            law = gaussian_law(msg["fn"])
            if law is None:
                return
            self._check(msg, record)
            value = msg["value"] = undrawn(msg["name"], law, self.plan, RULES)
            self._roots[msg["name"]] = value.root
            msg["done"] = True
        if record is None and type(msg["value"]) is Undrawn and not is_point_mass(msg["fn"]):
            msg["fn"] = _at_undrawn(msg["fn"])

    def _is_wanted(self, msg: Any) -> bool:
        if msg["args"] or msg["kwargs"] or msg["mask"] is False:
            return False
        if any(f.name != PARTICLES and f.dim is not None for f in msg["cond_indep_stack"]):
            return False
        return self.select is None or self.select(msg["name"])

    def _check(self, msg: Any, record: Sample | None) -> None:
        """Refuse what would be biased."""
        where = f"site {msg['name']!r}: {self.plan.title}"
        joint = joint_bound() if record is None else None
        if joint is not None or (record is not None and not record.additive):
            raise IncompatibleSite(
                f"{where} needs an additive bound, and {joint or 'this one'} is not: an example's "
                "noise is its own, and a log weight of several samples has one weight for all "
                "examples; use dsvi.bounds.Evidence(), or leave the site out by select=..."
            )
        if record is not None and record.frozen:
            raise IncompatibleSite(
                f"{where} takes the weight's densities apart from the outputs' noise, so there is "
                "nothing that frozen densities could cancel; use frozen=False"
            )
        estimator = None if record is None else record.choices[msg["name"]].estimator
        if estimator is not None and type(estimator) is not Pathwise:
            raise IncompatibleSite(
                f"{where} differentiates through the outputs' noise, and "
                f"{type(estimator).__name__} wants the site's own draw; use dsvi.Pathwise() here, "
                "or leave the site out by select=..."
            )
        if not getattr(msg["fn"], "has_rsample", False):
            raise IncompatibleSite(
                f"{where} differentiates through the outputs' noise, but the site says that it has "
                "no rsample, for a score function; leave the site out by select=..."
            )


def wrapped(handler: UndrawnSites, programs: tuple[Callable[..., Any], ...]) -> Any:
    """The handler, or what it is wrapped around: a guide, or a model and a guide.

    Args:
        handler: the handler.
        programs: none, a guide, or a model and a guide.
    """
    if len(programs) > 2 or not all(map(callable, programs)):
        raise InvalidArgument(
            f"{handler.plan.title}: expected nothing, a guide, or a model and a guide, got "
            f"{len(programs)} arguments: {programs!r}"
        )
    if not programs:
        return handler
    inside = tuple(handler(program) for program in programs)
    return inside[0] if len(inside) == 1 else inside


def _at_undrawn(law: Any) -> Any:
    """The same distribution, whose log density may be asked for at an undrawn value."""
    law = copy.copy(law)
    taken = law.log_prob

    def log_prob(value: Any, *args: Any, **kwargs: Any) -> Any:
        return taken(value.in_density() if type(value) is Undrawn else value, *args, **kwargs)

    law.log_prob = log_prob
    return law
