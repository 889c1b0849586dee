r"""What a user should know of the way a K-sample bound groups a program's terms.

With M of N elements of a plate in a step, the estimate has the expectation of the whole data's
bound if the elements stand under the bound one by one, and the factor N/M outside of it:

.. math:: \mathbb{E}_{\text{minibatch}} \Big[ \tfrac NM \textstyle\sum_{i \in \text{minibatch}}
    B(\ell_{i \cdot}) \Big] = \sum_i B(\ell_{i \cdot})

Where a bound that is no plain mean ties the elements together, it is another function of the
minibatch than of the whole data.  With the factor outside of it (all terms lie inside the plate) it
is a bound on log p(x) still, but not that of the whole data; with the factor inside, beside terms
that have none, Jensen's inequality no longer says that it is a bound.  docs/minibatches.md has the
table.
"""

from collections.abc import Iterator, Sequence

from pyro_dsvi.bounds import Bound
from pyro_dsvi.errors import (
    DSVIWarning,
    MinibatchBiasWarning,
    NotABoundWarning,
    PlatesMergedWarning,
)
from pyro_dsvi.graph.bundle import Bundle, extra_scales
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Cost, Run

Remark = tuple[type[DSVIWarning], str]


def remarks(
    bound: Bound, bundles: Sequence[Bundle], runs: Sequence[Run], layout: Layout
) -> Iterator[Remark]:
    """Warnings about plates whose elements the bound ties together."""
    name = type(bound).__name__
    if not bound.additive:
        yield from _of_loops(name, bundles, runs, layout)
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


def _of_loops(
    name: str, bundles: Sequence[Bundle], runs: Sequence[Run], layout: Layout
) -> Iterator[Remark]:
    """Of plates that are iterated over, which no bound can tell apart element by element."""
    scales = [extra_scales(_costs(bundle, runs), layout) for bundle in bundles]
    inside = any(len(found) != 1 for found in scales)
    outside = any(len(found) == 1 and found != {1.0} for found in scales)
    for plate, scale in {k: v for run in runs for k, v in run.sequential.items()}.items():
        yield (
            PlatesMergedWarning,
            f"{name}: plate {plate!r} is merged: a plate that is iterated over stands under "
            "one bound as a whole; for a bound per element use it as a context, with plate:",
        )
        if scale != 1 and inside:
            yield NotABoundWarning, _no_bound(name, plate)
        elif scale != 1 and outside:
            yield (
                MinibatchBiasWarning,
                f"{name}: plate {plate!r} is subsampled and iterated over, so the elements of a "
                "minibatch stand under one bound together: a bound on the log evidence, but not "
                "the one that the whole data would have; use it as a context, with plate:, or "
                "dsvi.bounds.Evidence()",
            )


def _no_bound(name: str, plate: str) -> str:
    return (
        f"{name}: plate {plate!r} is subsampled and merged, so its scale stands inside the "
        "logarithm and the estimate is no bound on the log evidence, nor an unbiased estimate of "
        "the whole data's bound; use dsvi.bounds.Evidence(), local_particles= if latents lie "
        "inside the plate, or the whole data"
    )


def _costs(bundle: Bundle, runs: Sequence[Run]) -> list[Cost]:
    return [cost for run in runs for cost in run.costs if cost.reach & bundle.reach]


def _outside(bundle: Bundle, runs: Sequence[Run]) -> list[str]:
    """The sites of a group that lie outside the plates it merges, latents if there are any."""
    sites = {cost.site for cost in _costs(bundle, runs) if bundle.merged - cost.plates}
    return sorted(sites & bundle.latents or sites)
