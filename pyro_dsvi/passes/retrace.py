"""The programs again at the values of an earlier run, followed from node to node."""

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger

from pyro_dsvi.estimators import Estimator
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.messages import is_silent
from pyro_dsvi.graph.picture.lineage import Lineage
from pyro_dsvi.graph.picture.node import Kind, Role
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.redraw import as_before
from pyro_dsvi.passes.sample import Sample
from pyro_dsvi.passes.score import Score


class _Guide(Sample):
    """Records the guide at given values, and makes nodes of what its distributions are made of."""

    def __init__(self, first: Sample, lineage: Lineage) -> None:
        super().__init__(
            as_before(first),
            lineage,
            follow_all=True,
            subsamples=first.subsamples,
            supports=first.supports,
        )
        self.first: Mapping[str, Any] = first.sites
        self.lineage = lineage

    def _draw(self, msg: Any, estimator: Estimator) -> None:
        before = self.first.get(msg["name"])
        if before is not None and not estimator.enumerates:  # a support is the same again
            msg["value"], msg["done"] = before["value"], True

    def _cut(self, msg: Any, estimator: Estimator) -> None:
        """Nothing to do: the earlier run has cut its values."""

    def _look_away(self, msg: Any, influence: Influence) -> None:
        if not is_point_mass(msg["fn"]):
            self.lineage.read_law(msg, Role.GUIDE)
        super()._look_away(msg, influence)

    def _follow(self, msg: Any, influence: Influence) -> None:
        name = msg["name"]
        if name not in self.choices:
            _read(msg, self.lineage, Role.GUIDE)
        super()._follow(msg, influence)
        if name in self.choices:
            kind = Kind.DETERMINISTIC if is_point_mass(msg["fn"]) else Kind.STOCHASTIC
            self.lineage.add_draw(msg, kind, self.reach_of_law[name])


class _Model(Score):
    """Records the model at given values, and makes nodes of what its distributions are made of."""

    def _follow(self, msg: Any, influence: Influence) -> None:
        assert isinstance(influence, Lineage)  # as given
        _read(msg, influence, Role.MODEL)
        super()._follow(msg, influence)


class _Constrained(Messenger):
    """Tells the lineage under which value a parameter shows itself to the program."""

    def __init__(self, lineage: Lineage) -> None:
        super().__init__()
        self.lineage = lineage

    def _pyro_post_param(self, msg: Any) -> None:
        self.lineage.is_view_of_parameter(msg["value"], msg["value"].unconstrained())


def retrace(executor: Executor, execution: Execution, lineage: Lineage) -> tuple[Sample, Score]:
    """Run guide and model again, for one particle.

    Args:
        executor: what ran them before.
        execution: the run whose values are to be used.
        lineage: follows the programs, and knows the inputs already.

    Returns:
        The records of both, with what lies directly behind each site.
    """
    args, kwargs = executor.args, executor.kwargs
    guide = _Guide(execution.guide, lineage)
    with lineage, executor.support(), guide, _Constrained(lineage):
        executor.guide(*args, **kwargs)
    if isinstance(poutine.unwrap(executor.guide), Messenger):
        guide.sites = {name: guide.sites[name] for name in guide.choices}
    subsamples = {**execution.guide.subsamples, **execution.model.subsamples}
    model = _Model(guide.sites, subsamples, lineage, plates=executor.plates)
    with lineage, model, executor.support(guide.sites), _Constrained(lineage):
        executor.model(*args, **kwargs)
    return guide, model


def _read(msg: Any, lineage: Lineage, role: Role) -> None:
    if msg["infer"].get("_deterministic"):
        lineage.add_computed(msg, role)
        return
    if not is_silent(msg):
        lineage.read_law(msg, role)
    if msg["is_observed"]:
        lineage.read_observed(msg)
