"""What a model predicts, and of which latents it needs draws: found by one run, or refused."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch
from pyro_dsvi.passes.probe import aside
from pyro_dsvi.predictive.given import Given, draw_alone

_NO_DATA = (dist.Delta, dist.Unit)  # what a deterministic value and a factor are to Pyro


@dataclass(frozen=True, eq=False)
class Survey:
    """One run of the model at one draw of the posterior.

    Attributes:
        site: the site to predict.
        law: its distribution in that run.
        kept: latents whose draws come from the posterior.
        ranks: batch dimensions of every site.
        nesting: plate dimensions of the model.
    """

    site: str
    law: Any
    kept: Collection[str]
    ranks: Mapping[str, int]
    nesting: int


def survey(
    model: Callable[[], Any],
    posterior: Mapping[str, Tensor],
    site: str | None,
    redraw: Collection[str] | None,
) -> Survey:
    """Run the model once at a draw, and find what to predict.

    Args:
        model: the model.
        posterior: one draw, by site.
        site: the site to predict; None for the only one that there can be.
        redraw: latents that the model is to draw anew; None where nothing was said.

    Raises:
        InvalidArgument: if the site is not there, or not clear.
        SiteMismatch: if a latent has no draw, or one of another shape.
        IncompatibleSite: if a draw of a latent may belong to other data, if an observed site would
            have something to say about a latent that is drawn anew, or if a plate is subsampled.
    """
    anew = set(redraw or ())
    with aside():
        # Whatever belongs to other data must not stop the run that finds it out.
        structure = _structure(model, {n: v for n, v in posterior.items() if n not in anew})
        given = [n for n in structure.sites if n in posterior and n not in anew]
        site = _predicted(structure, site, given, anew)
        _refuse_local(structure, site, given, redraw)
        run = draw_alone(model, {name: posterior[name] for name in given})
    _refuse_missing(run, site, given, anew)
    _refuse_evidence(run, site, given)
    _refuse_minibatch(run, [site, *given])
    return Survey(site, run.sites[site]["fn"], given, ranks_of(run), nesting_of(run))


def ranks_of(run: Given) -> dict[str, int]:
    """Batch dimensions of each site."""
    return {name: len(msg["fn"].batch_shape) for name, msg in run.sites.items()}


def nesting_of(run: Given) -> int:
    """Plate dimensions of the program."""
    frames = (frame for msg in run.sites.values() for frame in msg["cond_indep_stack"])
    return max((-frame.dim for frame in frames if frame.dim is not None), default=0)


class _Where(Given):
    """Gives draws where they fit, and draws where they do not."""

    def _pyro_sample(self, msg: Any) -> None:
        try:
            super()._pyro_sample(msg)
        except SiteMismatch:
            return


def _structure(model: Callable[[], Any], values: Mapping[str, Tensor]) -> Given:
    run = _Where(values, None)
    with run:
        model()
    return run


def _predicted(run: Given, site: str | None, given: list[str], anew: Collection[str]) -> str:
    candidates = [
        name
        for name, msg in run.sites.items()
        if name not in given and name not in anew and not isinstance(msg["fn"], _NO_DATA)
    ]
    if site is None and len(candidates) == 1:
        return candidates[0]
    if site is None:
        raise InvalidArgument(
            f"predict: {', '.join(map(repr, candidates)) or 'no site'} could be what to predict; "
            "name it in site=, and in redraw= the latents that are to be drawn from the model"
        )
    if site not in run.sites:
        raise InvalidArgument(
            f"predict: the model has no site {site!r}; it has {', '.join(map(repr, run.sites))}"
        )
    if site not in candidates:
        raise InvalidArgument(
            f"site {site!r}: it is a latent of which there are draws, or one to be drawn anew; "
            "predict a site that the guide does not sample"
        )
    return site


def _refuse_local(run: Given, site: str, given: list[str], redraw: Collection[str] | None) -> None:
    if redraw is not None:
        return
    plates = _plates(run, site)
    for name in given:
        shared = plates & _plates(run, name)
        if shared:
            raise IncompatibleSite(
                f"site {name!r}: it stands in plate {min(shared)!r} with {site!r}, so it is a "
                f"latent of each datum, and its draws may belong to other data; pass "
                f"redraw=[{name!r}] to draw it from the model for new data, or redraw=[] if the "
                "draws are for these data (the data of the fit, or an amortised guide)"
            )


def _refuse_missing(run: Given, site: str, given: list[str], anew: Collection[str]) -> None:
    for name in _drawn_by_model(run, site, given):
        if name not in anew:
            raise SiteMismatch(
                f"site {name!r}: the model samples it, but there is no draw of it; sample it in "
                "the guide, or name it in redraw= to draw it from the model given the others"
            )


def _refuse_evidence(run: Given, site: str, given: list[str]) -> None:
    """What is drawn from the model must not have been observed through another site."""
    for name in _drawn_by_model(run, site, given):
        plates = _plates(run, name)
        for other, msg in run.sites.items():
            evidence = (
                msg["is_observed"] and other != site and not isinstance(msg["fn"], dist.Delta)
            )
            if evidence and (not plates or plates & _plates(run, other)):
                raise IncompatibleSite(
                    f"site {name!r}: drawn anew from the model, it would miss what the observed "
                    f"site {other!r} says of it; draw it in the guide given {other!r} and pass "
                    f"redraw=[], or do not observe {other!r}"
                )


def _refuse_minibatch(run: Given, sites: list[str]) -> None:
    for name in sites:
        for plate in _plates(run, name) & run.minibatches:
            raise IncompatibleSite(
                f"site {name!r}: its plate {plate!r} draws a minibatch, another one for each draw "
                "of the posterior; call the model without subsample_size to predict all its data"
            )


def _drawn_by_model(run: Given, site: str, given: list[str]) -> Iterator[str]:
    for name, msg in run.sites.items():
        if not msg["is_observed"] and name != site and name not in given:
            yield name


def _plates(run: Given, name: str) -> set[str]:
    return {frame.name for frame in run.sites[name]["cond_indep_stack"]}
