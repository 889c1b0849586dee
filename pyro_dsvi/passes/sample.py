"""The first pass: run the guide, drawing each latent by its estimator."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.passes.enumeration import PlatesUnknown, is_whole
from pyro_dsvi.passes.minibatch import prepare_minibatch
from pyro_dsvi.passes.record import Record
from pyro_dsvi.strategy import Choice

Choose = Callable[..., Choice]  # of name, distribution, infer, and whether it is local if asked


class Sample(Record):
    """Records the guide's run, and decides how each latent is drawn.

    Args:
        choose: gives a site its estimator, or refuses it; asked before the draw.
        influence: follows what is drawn, or None.
        follow_all: follow every latent, not only those whose credit is needed.
        subsamples: minibatches to use again, so that all particles see the same data.
        supports: whether a handler further out gives a site its whole support if it is marked.
        particle: which particle this run draws, where they go one by one.
        num_particles: how many particles the step has, in this run or in several.
        additive: whether the bound is additive.
        frozen: whether the guide's densities are frozen.
        chunked: whether the step holds a chunk of its particles at a time.
        local_particles: particles of the latents inside plates for each draw of those outside, the
            rows of one such draw following one another; None if all have the same particles.
        globals_: values of the latents outside plates, where an earlier run has drawn them.

    Attributes:
        choices: estimator of each latent, in order.
    """

    def __init__(
        self,
        choose: Choose,
        influence: Influence | None,
        *,
        follow_all: bool = False,
        subsamples: dict[str, Any] | None = None,
        supports: bool = False,
        particle: int = 0,
        num_particles: int = 1,
        additive: bool = True,
        frozen: bool = False,
        chunked: bool = False,
        local_particles: int | None = None,
        globals_: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(influence)
        self.local_particles = local_particles
        self.globals = globals_ or {}
        self.chunked = chunked
        self.particle = particle
        self.num_particles = num_particles
        self.additive = additive
        self.frozen = frozen
        self.choose = choose
        self.follow_all = follow_all
        self.given = subsamples or {}
        self.supports = supports
        self.choices: dict[str, Choice] = {}
        self._paused = False

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if name in self.given:
            reuse(msg, self.given[name])
            return
        if msg["is_observed"]:
            return
        if site_is_subsample(msg):
            prepare_minibatch(msg)
            return
        choice = self.choices[name] = self._choice(msg)
        if choice.estimator.enumerates and not self.supports:
            raise PlatesUnknown
        if self.supports:
            msg["infer"]["enumerate"] = "parallel" if choice.estimator.enumerates else None
        if self.influence is not None:
            self._look_away(msg, self.influence)
        if name in self.globals and not is_local(msg):
            msg["value"], msg["done"] = self.globals[name], True
        elif not msg["done"] and msg["value"] is None:
            self._draw(msg, choice.estimator)

    def _choice(self, msg: Any) -> Choice:
        if self.local_particles is None:
            return self.choose(msg["name"], msg["fn"], msg["infer"])
        return self.choose(msg["name"], msg["fn"], msg["infer"], is_local(msg))

    def _draw(self, msg: Any, estimator: Estimator) -> None:
        """Left to Pyro where the estimator draws as Pyro does, so that handlers may step in."""
        if type(estimator).draw is not Estimator.draw:
            msg["value"] = estimator.draw(msg["fn"])
            msg["done"] = True

    def _cut(self, msg: Any, estimator: Estimator) -> None:
        """Keep gradients from passing where the estimator sends them in another way."""
        if not estimator.passes_gradient:
            msg["value"] = msg["value"].detach()

    def _pyro_post_sample(self, msg: Any) -> None:
        choice = self.choices.get(msg["name"])
        if choice is not None and msg["is_observed"]:  # by a handler further out, after all
            del self.choices[msg["name"]]
        elif choice is not None and choice.estimator.enumerates and not is_whole(msg):
            raise IncompatibleSite(
                f"site {msg['name']!r}: {type(choice.estimator).__name__} sums over all values, "
                "but a handler gives it one; remove the handler, or use "
                "dsvi.estimators.ScoreFunction() here"
            )
        elif choice is not None:
            self._cut(msg, choice.estimator)
            if self.local_particles is not None and not is_local(msg):
                _share(msg, self.local_particles)
        self._look_again()
        super()._pyro_post_sample(msg)

    def _follow(self, msg: Any, influence: Influence) -> None:
        choice = self.choices.get(msg["name"])
        if choice is None:
            super()._follow(msg, influence)
            return
        q, reach = self._drawing
        if q is not msg["fn"]:  # a handler further out put another distribution in its place
            reach |= influence.of(msg["fn"])
        law = self._reach_of_law(msg, influence, reach)
        own = self.follow_all or choice.estimator.needs_credit(msg["fn"])
        self.reach_of_law[msg["name"]] = law
        # A support is the same whatever the probabilities of its values depend on.
        carried = 0 if choice.estimator.enumerates else law
        self.reach[msg["name"]] = law | influence.drew(msg["name"], msg["value"], carried, own)

    def _look_away(self, msg: Any, influence: Influence) -> None:
        """What happens inside the draw need not be followed: all of it carries the law's reach."""
        self._drawing = (msg["fn"], influence.of(msg["fn"]))
        self._paused = influence.pause()

    def _look_again(self) -> None:
        if self._paused and self.influence is not None:
            self.influence.resume()
            self.influence.mark_parts(*self._drawing)
            self._paused = False

    def __exit__(self, *error: Any) -> None:
        self._look_again()
        super().__exit__(*error)


def is_local(msg: Any) -> bool:
    """Whether a site lives in a vectorised plate, that of the particles apart."""
    stack = msg["cond_indep_stack"]
    return any(frame.dim is not None and frame.name != PARTICLES for frame in stack)


def _share(msg: Any, local_particles: int) -> None:
    """Give the rows of particles that stand side by side, K after K, the value of the first."""
    for frame in msg["cond_indep_stack"]:
        if frame.name == PARTICLES:
            axis = frame.dim - getattr(msg["fn"], "event_dim", 0)
            first = msg["value"].unflatten(axis, (-1, local_particles)).select(axis, 0)
            msg["value"] = first.repeat_interleave(local_particles, axis)


def reuse(msg: Any, earlier: Any) -> None:
    """Give a site the value it had in an earlier run."""
    msg["value"] = earlier["value"]
    msg["done"] = True
    msg["infer"] = dict(earlier["infer"])
    if "_dim_to_id" in msg["infer"]:  # to which Pyro's enumeration adds as it goes
        msg["infer"]["_dim_to_id"] = dict(msg["infer"]["_dim_to_id"])
