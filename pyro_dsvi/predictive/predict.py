r"""The posterior predictive of a model at new data.

.. math:: p(y^* \mid x^*, X, Y) = \mathbb{E}_{q(w)} \mathbb{E}_{p(z^* \mid w, x^*)}\,
    p(y^* \mid x^*, z^*, w)

with global latents w drawn from the posterior, and latents z of each datum drawn anew from the
model.  Probabilities are averaged, and nothing else.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.predictive.classes import average_classes, has_classes
from pyro_dsvi.predictive.given import Program, draw_alone, draw_side_by_side
from pyro_dsvi.predictive.laws import Laws
from pyro_dsvi.predictive.mixture import MixturePrediction
from pyro_dsvi.predictive.posterior import posterior_of
from pyro_dsvi.predictive.prediction import Prediction
from pyro_dsvi.predictive.side_by_side import SideBySide
from pyro_dsvi.predictive.survey import Survey, survey


@torch.no_grad()
def predict(
    model: Callable[..., Any],
    guide_or_samples: Any,
    *args: Any,
    num_samples: int | None = None,
    site: str | None = None,
    redraw: Collection[str] | None = None,
    chunk: int = 100,
    vectorize: bool | None = None,
    **kwargs: Any,
) -> Prediction:
    r"""Predict what the model observes, by averaging probabilities over the posterior.

    Model and guide are called with ``*args, **kwargs``, as Pyro's ``Predictive`` does: with new
    inputs and no observation (``y=None``), or with the data of the fit.  The site to predict is the
    one that is neither a latent with draws nor drawn anew.  Modules run in the mode they are in:
    call ``.eval()`` before, where there is dropout or batch normalisation.

    A latent in a plate with the predicted site belongs to a datum, and whether its draws belong to
    *these* data cannot be seen from the program.  ``redraw`` says it: such a latent is drawn from
    the model given the others (new data), or from the guide or the samples (``redraw=[]``: the data
    of the fit, or a guide that is amortised).

    Args:
        model: the model.
        guide_or_samples: a guide; samples by site, ``[draws, *batch, *event]``; or a
            ``pyro.infer.MCMC`` that has run.
        *args: positional arguments of model and guide.
        num_samples: draws of the posterior; 1,000 from a guide and all samples if None.  Fewer
            samples than there are are taken evenly spaced.
        site: name of the site to predict, where more than one could be meant.
        redraw: names of the latents to draw from the model.
        chunk: how many draws are run at a time.  The memory of the runs is that of one chunk.
        vectorize: draws of a chunk side by side (True), in a loop (False), or side by side where a
            check shows that the program broadcasts (None).
        **kwargs: keyword arguments of model and guide.

    Returns:
        A :class:`~pyro_dsvi.predictive.ClassPrediction` where the likelihood is of classes or of
        counts with a largest value, else a :class:`~pyro_dsvi.predictive.MixturePrediction`.

    Raises:
        InvalidArgument: if an argument cannot be used, or it is not clear what to predict.
        SiteMismatch: if a latent has no draw, or one of another shape.
        IncompatibleSite: if ``redraw`` is needed, if an observed site would have something to say
            about a latent that is drawn anew, or if the data are subsampled.

    Warns:
        LoopedParticlesWarning: if a program does not broadcast, and ``vectorize`` is None.

    References:
        :cite:p:`gelman2013bda`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model(x, y=None):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         return pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)
        >>> def guide(x, y=None):
        ...     pyro.sample("w", dist.Normal(1.0, 2.0))
        >>> _ = pyro.set_rng_seed(0)
        >>> prediction = dsvi.predict(model, guide, torch.tensor([1.0, 3.0]), num_samples=4000)
        >>> prediction.probabilities.shape
        torch.Size([2, 2])
        >>> bool((prediction.mean > 0.6).all())
        True
        >>> prediction.log_score(torch.tensor([1.0, 1.0])).value.shape
        torch.Size([2])
    """
    if chunk < 1:
        raise InvalidArgument(f"predict: chunk must be at least 1, got {chunk}")
    if redraw is not None and isinstance(redraw, str):
        raise InvalidArgument(f"predict: redraw is a list of names; pass redraw=[{redraw!r}]")

    def bind(program: Callable[..., Any]) -> Program:
        return partial(program, *args, **kwargs)

    posterior = posterior_of(guide_or_samples, bind, num_samples, vectorize)
    found = survey(bind(model), posterior.one(), site, redraw)
    chunks = posterior.chunks(chunk, found.kept)
    laws = _laws(bind(model), found, chunks, posterior.number, vectorize)
    if has_classes(found.law):
        return average_classes(found.site, laws)
    return MixturePrediction(found.site, posterior.number, tuple(laws))


def _laws(
    model: Program,
    found: Survey,
    chunks: Iterator[tuple[int, Mapping[str, Tensor]]],
    number: int,
    vectorize: bool | None,
) -> Iterator[Laws]:
    """The law of the predicted site at each draw, a chunk or a draw at a time."""
    rank = found.ranks[found.site]
    sides = SideBySide("model", model, found.ranks, found.nesting, [found.site])
    nesting, first = None, True
    for draws, values in chunks:
        if first:
            nesting, first = sides.nesting_for(values, number, vectorize), False
        if nesting is None:
            for k in range(draws):
                run = draw_alone(model, {name: value[k] for name, value in values.items()})
                yield Laws(run.sites[found.site]["fn"], None, rank)
        else:
            run = draw_side_by_side(model, values, nesting, draws)
            yield Laws(run.sites[found.site]["fn"], draws, rank)
