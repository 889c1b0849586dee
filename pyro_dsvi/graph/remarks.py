"""What a user should know of the way a K-sample bound groups a program's terms."""

from collections.abc import Iterator, Sequence

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import DSVIWarning, NotABoundWarning, PlatesMergedWarning
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Run

Remark = tuple[type[DSVIWarning], str]


def remarks(
    bound: Bound, bundles: Sequence[Bundle], runs: Sequence[Run], layout: Layout
) -> Iterator[Remark]:
    """Warnings about plates whose elements the bound ties together."""
    name = type(bound).__name__
    if not bound.additive:
        for plate, scale in {k: v for run in runs for k, v in run.sequential.items()}.items():
            yield (
                PlatesMergedWarning,
                f"{name}: plate {plate!r} is merged: a plate that is iterated over stands under "
                "one bound as a whole; for a bound per element use it as a context, with plate:",
            )
            if scale != 1:
                yield NotABoundWarning, _no_bound(name, plate)
    for bundle in bundles:
        if not bundle.merged:
            continue
        plates = ", ".join(repr(plate) for plate in sorted(bundle.merged))
        outside = ", ".join(repr(site) for site in _outside(bundle, runs))
        yield (
            PlatesMergedWarning,
            f"{name}: plate {plates} is merged: its elements stand under one bound together, "
            f"because site {outside} lies outside and ties them; for a bound per element sample "
            "it inside the plate",
        )
        for plate in sorted(bundle.merged):
            if layout.plates[plate].scale != 1:
                yield NotABoundWarning, _no_bound(name, plate)


def _no_bound(name: str, plate: str) -> str:
    return (
        f"{name}: plate {plate!r} is subsampled and merged, so its scale stands inside the "
        "logarithm and the estimate is no bound on the log evidence; use dsvi.bounds.Evidence() "
        "or the whole data"
    )


def _outside(bundle: Bundle, runs: Sequence[Run]) -> list[str]:
    """The sites of a group that lie outside the plates it merges, latents if there are any."""
    sites = {
        cost.site
        for run in runs
        for cost in run.costs
        if cost.reach & bundle.reach and bundle.merged - cost.plates
    }
    return sorted(sites & bundle.latents or sites)
