"""Where the variance of a step's gradient comes from: minibatches, draws, terms, data, sites.

Minibatches are crossed with draws within them, and each step is repeated on the same draws with all
terms of the log weight but some masked.  All parts are unbiased estimates: what the draws' noise
adds to the spread of means over draws is taken out again, so that a part that is zero may come out
slightly negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.decomposition import Decomposition, Part, PlateSplit, Split
from pyro_dsvi.diagnostics.estimates import step
from pyro_dsvi.diagnostics.parameters_by_site import parameters_by_site
from pyro_dsvi.diagnostics.prepared import (
    at_rest,
    bound_of,
    meet_parameters,
    on_trial,
    refuse_other_than_objective,
)
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.scenes import Moments, Stage
from pyro_dsvi.diagnostics.selection import Extent, Only, Terms
from pyro_dsvi.errors import InvalidArgument

_NAME = "variance_decomposition"
_WARM_UP = 20  # steps in which a moving average finds its place
_CLOSE = 1e-3  # relative to the largest part: rounding of single precision, well above


def variance_decomposition(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    objective: Any,
    *args: Any,
    num_minibatches: int = 24,
    num_draws: int = 16,
    num_elements: int = 4,
    seed: int = 0,
    **kwargs: Any,
) -> Decomposition:
    """Part the variance of an objective's gradient, and of its bound's estimate.

    Minibatches are those of subsampled plates.  Parameters stay as they are, and so does what the
    objective has learnt, after a few steps to learn it; generators, parameters and their gradients
    are left as they were found.

    Args:
        model: the model.
        guide: the guide.
        objective: any ``pyro.infer.ELBO``, or anything else with ``loss_and_grads``.
        args: positional arguments of model and guide.
        num_minibatches: minibatches to look at; where there are no more, each is visited once.
        num_draws: draws within a minibatch; where there are no more joint draws (of a Normal site,
            16 nodes of quadrature for each element), each is visited once.
        num_elements: elements of each plate whose shares are looked at one by one.
        seed: what everything is drawn from.
        kwargs: keyword arguments of model and guide.

    Returns:
        The parts, for the bound's value, for each parameter and for all, with advice.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> def model():
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", 4, subsample_size=2) as i:
        ...         pyro.sample("x", dist.Normal(w, 1.0), obs=x[i])
        >>> def guide():
        ...     pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(2.0)), 0.5))
        >>> found = dsvi.diagnostics.variance_decomposition(model, guide, dsvi.PathwiseELBO())
        >>> split = found["m"].variance  # (N + 1)² s², and N² (1/M - 1/N) times the data's variance
        >>> round(split.latent, 3), round(split.minibatch, 3)
        (6.25, 6.667)
    """
    refuse_other_than_objective(objective, _NAME)
    _check(num_minibatches, num_draws, num_elements)
    programs = Programs(model, guide, args, kwargs)
    with at_rest(programs, seed), on_trial(objective, programs, _NAME) as tested:
        bound = bound_of(objective, _NAME)
        meet_parameters(programs)
        for _ in range(_WARM_UP):
            step(tested, programs)
        stage = Stage(tested, programs, bound, num_draws)
        minibatches, subsampled, every = stage.minibatches(num_minibatches)
        seen = stage.scout(minibatches[0])
        adds_up, notes = _what_adds_up(stage, minibatches, seen)
        found = []
        for minibatch in minibatches:
            plan = _Plan.of(adds_up, num_elements)
            found.append(_Looked(plan, stage.moments(minibatch, plan.selections)))
            if not subsampled and found[-1].moments.draws == float("inf"):
                break  # there is nothing else to see
        sites = parameters_by_site(programs)
    draws = found[0].moments.draws
    exact = draws == float("inf") and every
    analysis = _Analysis(found, every, subsampled)
    blocks = _blocks(programs.parameters)
    parameters = {name: analysis.part(block) for name, block in blocks.items()}
    by_site = {
        site: _sum([parameters[name].variance for name in names]) for site, names in sites.items()
    }
    particles = getattr(objective, "num_particles", 1)
    return Decomposition(
        analysis.part(slice(0, 1)),
        analysis.part(slice(1, None)),
        parameters,
        by_site,
        f"{type(objective).__name__} with {particles} particle{'s' * (particles != 1)}",
        bound.additive,
        particles,
        len(found),
        draws,
        exact,
        tuple(notes),
    )


def _check(num_minibatches: int, num_draws: int, num_elements: int) -> None:
    if num_minibatches < 2 or num_draws < 2 or num_elements < 1:
        raise InvalidArgument(
            f"{_NAME}: num_minibatches and num_draws must be at least 2 and num_elements at least "
            f"1, got {num_minibatches}, {num_draws} and {num_elements}"
        )


def _sum(splits: Sequence[Split]) -> Split:
    return Split(sum(s.latent for s in splits), sum(s.minibatch for s in splits))


def _blocks(parameters: Mapping[str, Tensor]) -> dict[str, slice]:
    blocks, start = {}, 1
    for name, leaf in parameters.items():
        blocks[name] = slice(start, start + leaf.numel())
        start += leaf.numel()
    return blocks


# -- what is to be looked at ---------------------------------------------------------------------


@dataclass(frozen=True)
class _AddsUp:
    """The sites and the plates over which a step's estimate is a sum."""

    sites: tuple[str, ...]
    plates: Mapping[str, Extent]


def _what_adds_up(
    stage: Stage, minibatches: Sequence[Mapping[str, Tensor]], seen: Only
) -> tuple[_AddsUp, list[str]]:
    """Try it on one draw: a bound of several particles, say, is no sum of terms."""
    none, notes = Terms(none=True), []
    sites, plates = tuple(seen.sites), {}
    parts = stage.once(minibatches[0], [Terms(), none, *(Terms(site=name) for name in sites)])
    if not _close(parts[0] - parts[1], (parts[2:] - parts[1]).sum(0), parts):
        notes.append("the estimate is no sum over cost terms: their shares are left out")
        sites = ()
    for name, extent in seen.plates.items():
        if extent.minibatch < 2:
            halves = [Terms(plate=name)]
        else:
            order = tuple(range(extent.minibatch))
            cut = extent.minibatch // 2
            halves = [Terms(plate=name, elements=e) for e in (order[:cut], order[cut:])]
        parts = stage.once(minibatches[0], [Terms(plate=name), none, *halves])
        whole, rest = parts[0] - parts[1], (parts[2:] - parts[1]).sum(0)
        if _close(whole, rest, parts):
            plates[name] = extent
        else:
            notes.append(f"the estimate is no sum over the elements of plate {name!r}")
    return _AddsUp(sites, plates), notes


def _close(a: Tensor, b: Tensor, parts: Tensor) -> bool:
    return bool((a - b).abs().max() <= _CLOSE * parts.abs().max())


@dataclass(frozen=True)
class _Plan:
    """Selections of terms, and where each stands among them."""

    selections: tuple[Terms, ...]
    sites: Mapping[str, int]
    plates: Mapping[str, tuple[Extent, int, slice]]

    @classmethod
    def of(cls, adds_up: _AddsUp, num_elements: int) -> "_Plan":
        selections = [Terms(), Terms(none=True)]
        sites, plates = {}, {}
        for name in adds_up.sites:
            sites[name] = len(selections)
            selections.append(Terms(site=name))
        for name, extent in adds_up.plates.items():
            chosen = torch.randperm(extent.minibatch)[:num_elements].tolist()
            whole = len(selections)
            selections += [Terms(plate=name), *(Terms(plate=name, elements=(i,)) for i in chosen)]
            plates[name] = (extent, whole, slice(whole + 1, len(selections)))
        return cls(tuple(selections), sites, plates)


# -- what comes of it ----------------------------------------------------------------------------


@dataclass(eq=False)
class _Looked:
    """The moments of one minibatch, and the plan by which they were taken."""

    plan: _Plan
    moments: Moments


@dataclass(eq=False)
class _Analysis:
    """Unbiased parts of variances, from the moments of all minibatches.

    Args:
        found: by minibatch.
        every: whether these are all minibatches.
        subsampled: whether minibatches differ at all.
    """

    found: Sequence[_Looked]
    every: bool
    subsampled: bool

    def part(self, block: slice) -> Part:
        """The parts of a block of elements."""
        whole = self._whole(block, range(len(self.found)))
        plan = self.found[0].plan
        terms = {name: self._share(block, i) for name, i in plan.sites.items()}
        if terms:
            constant = self._share(block, 1)
            if abs(constant.total) > 1e-12 * abs(whole.total):
                terms["(no term)"] = constant  # what a baseline subtracts whatever the costs
        plates = {name: self._plate(block, name) for name in plan.plates}
        return Part(whole, self._standard_error(block), terms, plates)

    def _whole(self, block: slice, chosen: Sequence[int]) -> Split:
        mean, variance = self._stack(lambda m: (m.mean[0, block], m.variance[0, block]), chosen)
        return Split(float(variance.mean(0).sum()), self._between(mean, mean, variance, chosen))

    def _share(self, block: slice, i: int) -> Split:
        """Covariance of one selection's contribution with the whole."""

        def pick(m: Moments) -> tuple[Tensor, Tensor, Tensor]:
            if i == 1:
                return m.mean[0, block], m.mean[1, block], m.covariance[1, block]
            own = m.mean[i, block] - m.mean[1, block]
            return m.mean[0, block], own, m.covariance[i, block] - m.covariance[1, block]

        mean, own, covariance = self._stack(pick, range(len(self.found)))
        within = float(covariance.mean(0).sum())
        return Split(within, self._between(mean, own, covariance, range(len(self.found))))

    def _between(self, a: Tensor, b: Tensor, within: Tensor, chosen: Sequence[int]) -> float:
        """Covariance over minibatches of conditional means, less what the draws' noise brings."""
        if not self.subsampled:
            return 0.0
        count = len(chosen)
        spread = ((a - a.mean(0)) * (b - b.mean(0))).sum(0)
        noise = within.mean(0) / self.found[0].moments.draws
        if self.every and count == len(self.found):
            return float((spread / count - noise * (count - 1) / count).sum())
        return float((spread / (count - 1) - noise).sum())

    def _plate(self, block: slice, name: str) -> PlateSplit:
        r"""Var and Cov of the shares :math:`L_m`.

        The shares' mean squared conditional mean, less that of the plate as a whole, is their
        variance over elements; the covariance is what is missing from the variance of the sum.
        """
        extent = self.found[0].plan.plates[name][0]
        M, N, draws = extent.minibatch, extent.size, self.found[0].moments.draws
        scale = M / N  # from a share as it stands in the estimate to L_m
        total, total_within, latent, square = [], [], [], []
        for looked in self.found:
            _, whole, elements = looked.plan.plates[name]
            m = looked.moments
            total.append((m.mean[whole, block] - m.mean[1, block]) * scale)
            total_within.append(m.contribution[whole, block] * scale**2)
            own = (m.mean[elements, block] - m.mean[1, block]) * scale
            within = m.contribution[elements, block]
            latent.append((within * scale**2).mean(0))
            square.append((own.square() - within * scale**2 / draws).mean(0))
        sums, within = torch.stack(total), torch.stack(total_within).mean(0)
        count = len(self.found)
        between = self._between(sums, sums, torch.stack(total_within), range(count))
        doubt = float(within.sum()) / draws / count
        if self.subsampled and not self.every:
            doubt += between / count
        grand = (float(sums.mean(0).square().sum()) - doubt) / M**2
        V = Split(
            float(torch.stack(latent).mean(0).sum()),
            float(torch.stack(square).mean(0).sum()) - grand,
        )
        if M == 1:
            return PlateSplit(N, M, V, Split(0.0, 0.0))
        pairs = M * (M - 1)
        latent_pairs = (float(within.sum()) - M * V.latent) / pairs
        return PlateSplit(N, M, V, Split(latent_pairs, (between - M * V.minibatch) / pairs))

    def _standard_error(self, block: slice) -> Split:
        """By leaving out one minibatch at a time."""
        count = len(self.found)
        if self.every and self.found[0].moments.draws == float("inf"):
            return Split(0.0, 0.0)
        every, self.every = self.every, False
        without = [
            self._whole(block, [i for i in range(count) if i != left]) for left in range(count)
        ]
        self.every = every
        latent, minibatch = (
            torch.tensor([getattr(split, kind) for split in without], dtype=torch.float64)
            for kind in ("latent", "minibatch")
        )
        factor = (count - 1) ** 2 / count
        return Split(*(float((factor * x.var()).sqrt()) for x in (latent, minibatch)))

    def _stack(self, pick: Callable[[Moments], Any], chosen: Sequence[int]) -> list[Tensor]:
        columns = zip(*(pick(self.found[i].moments) for i in chosen), strict=True)
        return [torch.stack(column) for column in columns]
