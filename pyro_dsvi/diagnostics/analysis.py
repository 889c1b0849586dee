"""From the moments of each minibatch to the parts of a variance.

What the draws' noise adds to the spread of means over draws is taken out again, so that every part
is an unbiased estimate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.diagnostics.decomposition import Part, PlateSplit, Split
from pyro_dsvi.diagnostics.plan import Plan
from pyro_dsvi.diagnostics.scenes import Moments


@dataclass(eq=False)
class Looked:
    """The moments of one minibatch, and the plan by which they were taken.

    Attributes:
        plan: the selections of terms.
        moments: over draws, by selection.
    """

    plan: Plan
    moments: Moments


@dataclass(eq=False)
class Analysis:
    """Unbiased parts of variances, from the moments of all minibatches.

    Args:
        found: by minibatch.
        every: whether these are all minibatches.
        subsampled: whether minibatches differ at all.
    """

    found: Sequence[Looked]
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
