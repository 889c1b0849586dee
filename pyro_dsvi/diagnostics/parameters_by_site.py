"""Which parameters of the guide a site's distribution is computed from."""

from typing import Any

from pyro.infer.inspect import is_sample_site
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.estimators.law import tensors_of
from pyro_dsvi.passes.freeze import leaves_behind


class _Cut(Messenger):
    """Notes the leaves of each site's distribution, not those of draws upstream of it."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: dict[str, set[int]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not hasattr(msg["value"], "detach"):
            return
        msg["value"] = msg["value"].detach()
        if is_sample_site(msg) and not msg["is_observed"]:
            self.leaves[msg["name"]] = set(leaves_behind(_parts(msg["fn"], msg["value"])))


def _parts(q: Any, value: Tensor) -> list[Tensor]:
    """What a distribution is made of, and its density, which shows what its transforms hold."""
    parts = list(tensors_of(q))
    try:
        return [*parts, q.log_prob(value)]
    except NotImplementedError:
        return parts


def parameters_by_site(programs: Programs) -> dict[str, tuple[str, ...]]:
    """Names of the parameters that each latent's distribution is computed from, in one run.

    A parameter that reaches a site through draws upstream alone is not the site's own; one that
    several sites share is named at each.

    Args:
        programs: the programs, whose parameters have been met.
    """
    with _Cut() as seen:
        programs.guide(*programs.args, **programs.kwargs)
    return {
        site: tuple(name for name, leaf in programs.parameters.items() if id(leaf) in leaves)
        for site, leaves in seen.leaves.items()
        if leaves
    }
