r"""Closed forms in the place of sampled log densities, where they are exact.

.. math:: \mathbb{E}_{q(z)}[\log p(z \mid y) - \log q(z)] = -\mathrm{KL}(q(z) \,\|\, p(z \mid y))

holds if y, whatever the prior's parameters are computed from, is no function of z.  So a prior that
z itself or something drawn downstream of z has reached keeps its sampled density.  Where model and
guide scale or mask a site differently, the two terms get closed forms of their own:
:math:`\mathbb{E}[-\log q] = H(q)` and :math:`\mathbb{E}[\log p] = -\mathrm{KL} - H(q)`.

Pyro's automatic guides draw an auxiliary, unconstrained value and set the sites by ``Delta``; the
law of such a site is recognised by recomputing its value from the auxiliary one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import AffineTransform, ComposeTransform

from pyro_dsvi.estimators.law import innermost, is_point_mass, sampling_law
from pyro_dsvi.graph.divergence import divergence
from pyro_dsvi.graph.nodes import Cost, Run, same_weight

_GAUSSIAN = (dist.Normal, dist.MultivariateNormal, dist.LowRankMultivariateNormal)


@dataclass(eq=False)
class _Terms:
    """The densities of one run by site, and what reaches them."""

    run: Run
    guide: dict[str, Cost]
    model: dict[str, Cost]
    reach_of_draw: Mapping[str, int]
    reach_of_prior: Mapping[str, int]

    def downstream(self, site: str) -> int:
        """Bit set of a latent and all that was drawn from it."""
        bit = self.run.latents[site].bit
        bits = 0
        for name, latent in self.run.latents.items():
            if self.reach_of_draw.get(name, -1) & bit:
                bits |= latent.bit
        return bits

    def prior_is_upstream(self, site: str, source: str) -> bool:
        """Whether the prior at ``site`` is untouched by ``source`` and all drawn from it."""
        return not self.reach_of_prior.get(site, -1) & self.downstream(source)

    def put(self, old: list[Cost], new: list[Cost]) -> None:
        """Replace costs, unless some of them have been replaced before."""
        gone = {id(cost) for cost in old}
        if gone - {id(cost) for cost in self.run.costs}:
            return
        self.run.costs = [cost for cost in self.run.costs if id(cost) not in gone] + new


def use_closed_forms(
    run: Run, reach_of_draw: Mapping[str, int], reach_of_prior: Mapping[str, int]
) -> None:
    """Replace sampled densities of a run by closed forms, in place.

    Args:
        run: the run.
        reach_of_draw: bit set of what reaches each of the guide's draws.
        reach_of_prior: bit set of what reaches each of the model's distributions.
    """
    terms = _Terms(
        run,
        {cost.site: cost for cost in run.costs if cost.of_guide},
        {cost.site: cost for cost in run.costs if not cost.of_guide},
        reach_of_draw,
        reach_of_prior,
    )
    sites = [site for site in run.latents if site in terms.guide]
    points = [site for site in sites if is_point_mass(run.latents[site].q)]
    for site in points:
        _through_own_auxiliary(terms, site)
    for site in sites:
        if site in terms.model and site not in points:
            _directly(terms, site)
        elif site not in terms.model:
            _through_joint_auxiliary(terms, site)


def _directly(terms: _Terms, site: str) -> None:
    q, p = terms.guide[site], terms.model[site]
    if terms.prior_is_upstream(site, site):
        _close(terms, q, p, sampling_law(q.law), [q, p])


def _through_own_auxiliary(terms: _Terms, site: str) -> None:
    """A ``Delta`` whose value is a bijection of the auxiliary site ``<site>_unconstrained``."""
    source = site + "_unconstrained"
    point, auxiliary, p = (
        terms.guide[site],
        terms.guide.get(source),
        terms.model.get(site),
    )
    if auxiliary is None or p is None or not _same_weight(point, auxiliary):
        return
    bijection = biject_to(p.law.support)
    if not _equal(bijection(auxiliary.drawn), p.drawn):
        return
    if terms.prior_is_upstream(site, source):
        law = _pushed(auxiliary.law, bijection, auxiliary.drawn)
        _close(terms, auxiliary, p, law, [point, auxiliary, p])


def _pushed(law: Any, bijection: Any, drawn: Tensor) -> Any:
    if bijection(drawn) is drawn:
        return law
    base, n = law, 0
    while isinstance(base, torch.distributions.Independent):
        base, n = base.base_dist, n + base.reinterpreted_batch_ndims
    if bijection.domain.event_dim == 0:  # elementwise: the prior has its event dimensions outside
        pushed = dist.TransformedDistribution(base, _steps(bijection))
        return pushed.to_event(n) if n else pushed
    return dist.TransformedDistribution(law, [bijection])


def _steps(bijection: Any) -> list[Any]:
    """The transforms that a bijection consists of, as a prior such as LogNormal would list them."""
    if isinstance(bijection, ComposeTransform):
        return [step for part in bijection.parts for step in _steps(part)]
    idle = isinstance(bijection, AffineTransform) and (bijection.loc, bijection.scale) == (0, 1)
    return [] if idle else [bijection]


def _close(terms: _Terms, q: Cost, p: Cost, law: Any, old: list[Cost]) -> None:
    """Replace the densities of one site by -KL, or by entropy and cross-entropy apart."""
    prior = sampling_law(p.law)
    try:
        kl = divergence(law, prior)
        if _same_weight(q, p):
            terms.put(old, [_expected(p, -kl, q.reach | p.reach, terms, q.site, "-KL")])
            return
        entropy = law.entropy()
    except NotImplementedError:
        return
    new = [
        _expected(q, entropy, q.reach, terms, q.site, "entropy"),
        _expected(p, -kl - entropy, p.reach, terms, q.site, "log prior"),
    ]
    terms.put(old, new)


def _through_joint_auxiliary(terms: _Terms, source: str) -> None:
    """One auxiliary Gaussian over all sites, each a ``Delta`` at a bijection of its slice."""
    auxiliary = terms.guide[source]
    if not isinstance(innermost(auxiliary.law), _GAUSSIAN) or auxiliary.law.event_dim != 1:
        return
    slices = _slices(terms, auxiliary)
    if slices is None:
        return
    bit = terms.run.latents[source].bit
    law = sampling_law(auxiliary.law)
    old, new = (
        [auxiliary],
        [_expected(auxiliary, law.entropy(), auxiliary.reach, terms, source, "entropy")],
    )
    for site, where in slices.items():
        p = terms.model[site]
        straight = biject_to(p.law.support)(p.drawn) is p.drawn
        if not straight or terms.reach_of_prior.get(site, -1) & terms.downstream(source):
            continue
        shape = p.drawn.shape
        mean, variance = (m.expand(auxiliary.drawn.shape)[..., where] for m in _moments(law))
        marginal = dist.Normal(mean.reshape(shape), variance.reshape(shape).sqrt())
        marginal = marginal.to_event(p.law.event_dim)
        try:
            value = -divergence(marginal, sampling_law(p.law)) - marginal.entropy()
        except NotImplementedError:
            continue
        old.append(p)
        new.append(_expected(p, value, p.reach & ~bit, terms, source, "log prior"))
    terms.put(old, new)


def _moments(law: Any) -> tuple[Tensor, Tensor]:
    return law.mean, law.variance


def _slices(terms: _Terms, auxiliary: Cost) -> dict[str, slice] | None:
    """Where each site's unconstrained value stands in the auxiliary one; None if it does not."""
    slices, start = {}, 0
    size, rows = auxiliary.drawn.shape[-1], auxiliary.drawn.shape[:-1].numel()
    for site, latent in terms.run.latents.items():
        if not is_point_mass(latent.q) or site not in terms.model:
            continue
        bijection = biject_to(terms.model[site].law.support)
        shape = bijection.inverse_shape(latent.value.shape)
        stop = start + shape.numel() // rows
        piece = auxiliary.drawn[..., start:stop]
        if stop > size or piece.numel() != shape.numel():
            return None
        if not _equal(bijection(piece.reshape(shape)), latent.value):
            return None
        slices[site], start = slice(start, stop), stop
    return slices if start == size else None


def _expected(
    weight: Cost, value: Tensor, reach: int, terms: _Terms, drawn: str, closed: str
) -> Cost:
    """A cost whose draw has been integrated out."""
    value = scale_and_mask(value, weight.scale, weight.mask)
    bit = terms.run.latents[drawn].bit | terms.run.latents[weight.site].bit
    return Cost(
        weight.site,
        False,  # it carries its sign itself
        value,
        weight.plates,
        reach & ~bit,
        weight.scale,
        weight.mask,
        weight.law,
        None,
        weight.dims,
        closed=closed,
    )


def _same_weight(a: Cost, b: Cost) -> bool:
    return a.plates == b.plates and same_weight(a, b)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
