r"""log p(x) by importance sampling from the guide, some particles at a time.

.. math:: \log \hat p(x) = \log \frac1n \sum_{k=1}^n w_k, \qquad
    w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q

One such estimate for each group of terms and each element of the plates that they share (each
datum, where all latents are local); their sum is log p(x).  The mean weight is unbiased for p(x),
its logarithm low by about :math:`\sigma^2 / 2`, with the standard error of the delta method

.. math:: \sigma^2 = \frac{\widehat{\mathrm{Var}}(w)}{n\, \bar w^2}
    = \frac{1}{n - 1} \Big( \frac{n}{\mathrm{ESS}} - 1 \Big), \qquad
    \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

Sums of weights and of their squares are carried along in log space; no weight is kept.

References:
    :cite:p:`kong1994`, :cite:p:`burda2016iwae`, :cite:p:`wu2017quantitative`
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.bounds import IWAE
from pyro_dsvi.errors import InvalidArgument, check_whole
from pyro_dsvi.estimators import ScoreFunction
from pyro_dsvi.graph.bundle import Bundle
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.whole import Ties
from pyro_dsvi.objective import Objective
from pyro_dsvi.strategy import Choice

_DRAWN = Choice(ScoreFunction(), "drawn from the guide as it is")


@dataclass(frozen=True, eq=False)
class Evidence:
    """The log evidence of one group of terms, for each element of the plates that they share.

    Attributes:
        sites: the latents that were integrated out.
        plates: the plates that the axes below stand for, outermost first.
        value: in nats, shape ``[*plates]``.
        standard_error: by the delta method, in nats, same shape.
        effective_sample_size: of ``num_particles``, same shape.
    """

    sites: tuple[str, ...]
    plates: tuple[str, ...]
    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


@dataclass(frozen=True, eq=False)
class LogEvidence:
    """An estimate of log p(x).

    Attributes:
        value: the total in nats.
        standard_error: of the total, by the delta method, in nats.  It rests on the weights that
            were seen: where the effective sample size is small it is too small itself.
        groups: the estimates that the total is the sum of.
        constant: the sum of the terms that no latent reaches, in nats.
        num_particles: draws of the guide.
    """

    value: float
    standard_error: float
    groups: tuple[Evidence, ...]
    constant: float
    num_particles: int

    @property
    def effective_sample_size(self) -> float:
        """The smallest of all groups and elements."""
        sizes = [float(group.effective_sample_size.min()) for group in self.groups]
        return min(sizes, default=float(self.num_particles))

    def __str__(self) -> str:
        lines = [f"log p(x) = {self.value:.4f} ± {self.standard_error:.4f} nats"]
        for group in self.groups:
            shape = " x ".join(
                f"{name} {size}" for name, size in zip(group.plates, group.value.shape, strict=True)
            )
            ess = group.effective_sample_size
            lines.append(
                f"  {', '.join(group.sites)} [{shape or 'no plate'}]: "
                f"{float(group.value.sum()):.4f}, effective sample size "
                f"{float(ess.min()):.1f} to {float(ess.max()):.1f} of {self.num_particles}"
            )
        return "\n".join(lines)


@torch.no_grad()
def log_evidence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_particles: int = 1000,
    chunk: int | None = None,
    vectorize_particles: bool | None = None,
    **kwargs: Any,
) -> LogEvidence:
    """Estimate log p(x) by importance sampling, datum by datum where the latents are local.

    The guide may be anything that can be drawn from and has a density; which estimators its sites
    name plays no part.  Latents outside a plate tie its elements together: these then have one
    joint weight, which needs many more particles.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        num_particles: draws of the guide, at least 2.
        chunk: draws held in memory at once; None: all.
        vectorize_particles: whether draws are made side by side; None: where the programs can.
        kwargs: keyword arguments of both.

    Returns:
        The estimate, with its standard error and effective sample sizes.

    Raises:
        InvalidArgument: if a plate subsamples or a site is scaled, since the scaled densities are
            those of no model; or if a number cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> data = torch.tensor([0.3, -1.2])
        >>> def model():
        ...     with pyro.plate("data", 2):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=data)
        >>> def posterior():
        ...     with pyro.plate("data", 2):
        ...         pyro.sample("z", dist.Normal(data / 2, 0.5**0.5))
        >>> found = dsvi.log_evidence(model, posterior, num_particles=100)
        >>> round(found.value, 4), round(found.standard_error, 4)
        (-2.9135, 0.0)

    References:
        :cite:p:`kong1994`, :cite:p:`wu2017quantitative`
    """
    check_whole("log_evidence: num_particles", num_particles, 2)
    drawing = Drawing(
        IWAE(), num_particles=num_particles, chunk=chunk, vectorize_particles=vectorize_particles
    )
    running, plates, constant, seen = _Running(), {}, 0.0, 0
    for rows, bundles, free, runs in drawing.weigh(model, guide, args, kwargs):
        for run in runs:
            _refuse_scales(run)
            plates.update({name: plate.dim for name, plate in run.plates.items()})
        running.add(seen, rows, bundles)
        constant += 0.0 if free is None else float(free) * rows / num_particles
        seen += rows
    groups = tuple(running.evidence(num_particles, plates))
    variance = sum(float(group.standard_error.square().sum()) for group in groups)
    total = sum(float(group.value.sum()) for group in groups)
    return LogEvidence(constant + total, math.sqrt(variance), groups, constant, num_particles)


class Drawing(Objective):
    """Draws from the guide as it is, whatever estimators its sites name."""

    def _choose(
        self, name: str, q: Any, infer: Mapping[str, Any], local: bool | None = None
    ) -> Choice:
        return _DRAWN


@dataclass(eq=False)
class _Sums:
    """Sums over the particles so far, in logs: of weights, and of their squares."""

    first: Tensor
    second: Tensor


@dataclass(eq=False)
class _Running:
    """The groups met so far, with their sums."""

    ties: Ties = field(default_factory=Ties)
    sums: list[_Sums] = field(default_factory=list)

    def add(self, seen: int, rows: int, bundles: Sequence[Bundle]) -> None:
        """Take in the log weights of some particles, after ``seen`` others."""
        numbers = {self.ties.number(bundle): bundle.log_w for bundle in bundles}
        for number in numbers.keys() - range(len(self.sums)):
            like = numbers[number][0].double()  # which none of those before has met: weights of one
            log_n = math.log(seen) if seen else -torch.inf
            self.sums.append(_Sums(torch.full_like(like, log_n), torch.full_like(like, log_n)))
        for number, sums in enumerate(self.sums):
            log_w = numbers.get(number, torch.zeros(rows, *(1,) * sums.first.dim()))
            log_w = log_w.to(sums.first)
            sums.first = torch.logaddexp(sums.first, log_w.logsumexp(0))
            sums.second = torch.logaddexp(sums.second, (2 * log_w).logsumexp(0))

    def evidence(self, n: int, dims: Mapping[str, int]) -> Sequence[Evidence]:
        """What the sums say of each group."""
        found = []
        for tie, sums in zip(self.ties.known, self.sums, strict=True):
            plates = tuple(sorted(tie.bundle.shared, key=dims.__getitem__))
            kept = [dims[name] for name in plates]
            first, second = (_of_plates(x, kept) for x in (sums.first, sums.second))
            size = torch.where(first > -torch.inf, (2 * first - second).exp(), 0.0)
            error = ((n / size - 1).clamp(min=0) / (n - 1)).sqrt()
            value = first - math.log(n)
            found.append(Evidence(tuple(sorted(tie.latents)), plates, value, error, size))
        return found


def _of_plates(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The axes of the plates alone; all others have one element."""
    return x.reshape([x.shape[dim] for dim in dims])


def _refuse_scales(run: Run) -> None:
    for name, scale in [*((p.name, p.scale) for p in run.plates.values()), *run.sequential.items()]:
        if scale != 1:
            raise InvalidArgument(
                f"log_evidence: plate {name!r} subsamples, and what is scaled by {scale:g} is no "
                "density of the data; pass the whole data, or a model of the minibatch alone"
            )
    for cost in run.costs:
        if isinstance(cost.scale, Tensor) or cost.scale != 1:
            raise InvalidArgument(
                f"log_evidence: site {cost.site!r} is scaled by {cost.scale}, so its density is "
                "that of no model; remove poutine.scale, or use poutine.mask to leave it out"
            )
