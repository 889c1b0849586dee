"""What an objective finds out about a model and its guide, and need not find out again.

It holds for this pair of programs alone: where others come, all of it is found anew.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from pyro_dsvi.errors import BiasedEstimatorWarning, DSVIWarning, SiteMismatch
from pyro_dsvi.estimators import Bias, Estimator
from pyro_dsvi.estimators.law import innermost
from pyro_dsvi.passes.execute import Execution
from pyro_dsvi.passes.particles import Particles, Say
from pyro_dsvi.passes.probe import nesting_of
from pyro_dsvi.strategy import Choice

Program = Callable[..., Any]


@dataclass(eq=False)
class Pair:
    """A model and its guide, as the steps so far have shown them.

    Attributes:
        model: the model; None as long as no programs have been met.
        guide: the guide.
        nesting: plate dimensions if particles go side by side, None if they go one by one.
        plates: dimensions that plates take up, once a site takes its whole support.
        follow: whether the next step has to know what reaches what.
        names_checked: whether every estimator that is given by name is known to have its site.
    """

    model: Program | None = None
    guide: Program | None = None
    nesting: int | None = None
    plates: int | None = None
    follow: bool = True
    names_checked: bool = False
    _choices: dict[str, tuple[Any, Choice]] = field(default_factory=dict)

    @classmethod
    def meet(
        cls,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        particles: Particles,
        say: Say,
        *,
        nested: bool,
    ) -> Self:
        """Look at two programs for the first time.

        Args:
            model: the model.
            guide: the guide.
            args: positional arguments of both.
            kwargs: keyword arguments of both.
            particles: how many there are, and how they are to be run.
            say: gives a warning once.
            nested: whether latents inside plates have particles of their own.
        """
        if nested:
            nesting_of(model, guide, args, kwargs)  # so that parameters are known from draws
        return cls(model, guide, particles.nesting(model, guide, args, kwargs, say))

    def consists_of(self, model: Program, guide: Program) -> bool:
        """Whether it is these programs that have been met."""
        return self.model == model and self.guide == guide

    # -- the estimators of its sites -----------------------------------------------------------

    def choice(
        self, name: str, q: Any, infer: Mapping[str, Any], choose: Callable[[], Choice]
    ) -> Choice:
        """A site's estimator, chosen once for a kind of distribution and its annotations."""
        given = infer.get("estimator")
        kind = (type(innermost(q)), getattr(q, "has_rsample", False))
        marks = infer.get("frozen"), infer.get("enumerate"), infer.get("num_samples")
        key = (*kind, given, *marks, torch.is_grad_enabled())
        known = self._choices.get(name)
        if known is None or known[0] != key:
            known = self._choices[name] = (key, choose())
        return known[1]

    def may_have_rivals(self) -> bool:
        """Whether particles may be one another's baseline at some site."""
        baselines = [choice.estimator.baseline for _, choice in self._choices.values()]
        return not baselines or any(b is not None and b.min_particles > 1 for b in baselines)

    def check_names(self, names: Collection[str], executions: list[Execution]) -> None:
        """Refuse an estimator for a site that does not exist.

        Raises:
            SiteMismatch: if the guide has no latent site of some name.
        """
        if self.names_checked:
            return
        followed = [e.influence for e in executions if e.influence is not None]
        if not followed or any(influence.escaped for influence in followed):
            return  # a branch that was not taken may hold the site
        known = {name for execution in executions for name in execution.guide.choices}
        unknown = set(names) - known
        if unknown:
            raise SiteMismatch(
                f"estimators: the guide has no latent site {sorted(unknown)}; it has "
                f"{sorted(known)}"
            )
        self.names_checked = True


def cautions(
    name: str, infer: Mapping[str, Any], estimator: Estimator
) -> Iterator[tuple[type[DSVIWarning], str]]:
    """What a user should know of a site's estimator."""
    if infer.get("enumerate") and not estimator.enumerates:
        yield (
            DSVIWarning,
            f"site {name!r} is marked for enumeration, but is sampled under this objective; "
            "dsvi.estimators.Enumerate() sums over its support, all values side by side",
        )
    if estimator.bias is Bias.BIASED:
        yield (
            BiasedEstimatorWarning,
            f"site {name!r}: {type(estimator).__name__} is biased",
        )
