r"""Costs summed over the supports of the guide's enumerated sites, each by the sites it depends on.

.. math:: \mathbb{E}[c] = \sum_{d \in D_c} M_c(d)\, c(d), \qquad
    M_c(d) = \sum_{u} \prod_{e \in d, u} q(e \mid \ldots)

where D_c are the enumerated sites whose dimension the cost has, and u those upstream of them.  The
weights M are differentiated, and by themselves bring the exact gradient of the guide's parameters.

A site that is drawn downstream of enumerated ones, given d, is drawn once for each value of them: a
*branch*.  What its draw is answerable for is the conditional expectation of its costs given d, and
it adds to the gradient in proportion to :math:`M(d)`.

References:
    :cite:p:`titsias2015local`, :cite:p:`obermeyer2019tensor`
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from pyro.ops import packed
from pyro.ops.rings import LogRing
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.graph.alphabet import Alphabet
from pyro_dsvi.graph.nodes import PARTICLES, Branch, Cost, Latent, Run, influences
from pyro_dsvi.graph.packing import alike, letters_of, named


def take_expectations(run: Run) -> None:
    """Replace a run's costs by their sums over enumerated sites, and note its branches, in place.

    Args:
        run: the run, what the model enumerates summed out of it.

    Raises:
        IncompatibleSite: if a value inside a plate reaches a cost outside.
    """
    alphabet = Alphabet(run)
    weights = _Weights(alphabet)
    if not weights.log_q:
        return
    costs = [(cost, alphabet.pack(cost.log_density, cost)) for cost in run.costs]
    costs = [(weights.reached(cost, x), x) for cost, x in costs]
    if torch.is_grad_enabled():
        for latent in run.latents.values():
            if latent.score is not None:
                _note_branch(latent, costs, weights)
    run.costs = [weights.expectation(cost, x) for cost, x in costs]


class _Weights:
    """The probabilities of the guide's enumerated sites.

    Attributes:
        log_q: log probabilities of each site's values, packed, by the site's letter.
        order: when each site was drawn, by its letter.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.latents: dict[str, Latent] = {}
        self.log_q: dict[str, Tensor] = {}
        self.order: dict[str, int] = {}
        for latent in alphabet.run.latents.values():
            if latent.number is not None:
                letter = alphabet.letter(latent.number)
                self.order[letter] = latent.number
                self.latents[letter] = latent
                log_q = latent.estimator.score(latent.q, latent.value)
                self.log_q[letter] = alphabet.pack(log_q, latent)
        self._known: dict[tuple[frozenset[str], bool], Tensor] = {}

    def sites_of(self, x: Tensor) -> frozenset[str]:
        """Letters of the enumerated sites among a packed tensor's dimensions."""
        return frozenset(letters_of(x)).intersection(self.log_q)

    def with_upstream(self, sites: Iterable[str]) -> set[str]:
        """The sites and all that their probabilities depend on."""
        pending, found = list(sites), set()
        while pending:
            site = pending.pop()
            if site not in found:
                found.add(site)
                pending.extend(self.sites_of(self.log_q[site]))
        return found

    def log_joint(self, sites: frozenset[str]) -> Tensor:
        """Joint log probability of the sites' values, packed; those upstream are summed out.

        The last of the sites is split off, and what it depends on put in its place, so that a chain
        is summed link by link, and what one cost has needed serves the next.
        """
        last = max(sites, key=self.order.__getitem__)
        log_q = self.log_q[last]
        before = (sites | self.sites_of(log_q)) - {last}
        if not before:
            return log_q
        key = sites, torch.is_grad_enabled()  # what has no gradient serves credits alone
        if key not in self._known:
            terms = alike([log_q, self.log_joint(before)])
            self._known[key] = LogRing().sumproduct(terms, before - sites)
        return self._known[key]

    def probability(self, sites: frozenset[str]) -> Tensor:
        """Joint probability of the sites' values, packed; those upstream are summed out."""
        log_joint = self.log_joint(sites)
        return named(log_joint.exp(), letters_of(log_joint))

    def reached(self, cost: Cost, x: Tensor) -> Cost:
        """The cost, reached also by what reaches the probabilities that will weigh it."""
        sites = self.sites_of(x)
        if not sites:
            return cost
        for site in sites:
            _refuse_outside(self.latents[site], cost)
        reach = cost.reach
        for site in self.with_upstream(sites):
            reach |= self.latents[site].reach
        return replace(cost, reach=reach)

    def weigh(self, x: Tensor, given: frozenset[str] = frozenset()) -> Tensor:
        """A packed cost times the probability of its sites and those given."""
        sites = self.sites_of(x) | given
        if not sites:
            return x
        probability, x = packed.broadcast_all(self.probability(sites), x)
        possible = probability > 0  # an impossible value may well have an infinite cost
        weighed = probability * torch.where(possible, x, 0.0)
        return named(weighed, letters_of(x))

    def expectation(self, cost: Cost, x: Tensor) -> Cost:
        """The cost summed over its sites."""
        sites = self.sites_of(x)
        if not sites:
            return cost
        value = _sum_out(self.weigh(x), sites)
        value = self.alphabet.unpack(value, cost.plates, {})
        return replace(cost, log_density=value, dims={})


def _note_branch(latent: Latent, costs: list[tuple[Cost, Tensor]], weights: _Weights) -> None:
    """If a latent is drawn for each value of enumerated sites, find what each draw answers for."""
    assert latent.score is not None  # only latents with a score are asked for
    alphabet = weights.alphabet
    score = alphabet.pack(latent.score.detach(), latent)
    given = weights.sites_of(score)
    if not given:
        return
    with torch.no_grad():
        share = weights.probability(given)
        kept = given | alphabet.ordinal(latent.plates)
        parts = [named(torch.zeros_like(share), letters_of(share))]
        for cost, x in costs:
            if influences(latent.bit, cost.reach):
                signed = named(-x, letters_of(x)) if cost.of_guide else x
                weighed = weights.weigh(signed, given)
                parts.append(_sum_out(weighed, frozenset(letters_of(weighed)) - kept))
        share, *parts = packed.broadcast_all(share, *parts)
        total = torch.stack(parts).sum(0)
        credit = torch.where(share > 0, total / share, 0.0)
        letters = letters_of(share)
        order = sorted(given)
        sizes = [score.shape[letters_of(score).index(site)] for site in order]
    alphabet.run.branches[latent.site] = Branch(
        named(credit, letters),
        named(share, letters),
        alphabet.letters(latent.plates, latent.dims),
        tuple(zip(order, sizes, strict=True)),
        alphabet.letter(PARTICLES),
    )


def _sum_out(x: Tensor, sites: frozenset[str]) -> Tensor:
    letters = letters_of(x)
    dims = [i for i, letter in enumerate(letters) if letter in sites]
    x = x.sum(dims) if dims else x[...]
    return named(x, "".join(letter for letter in letters if letter not in sites))


def _refuse_outside(latent: Latent, cost: Cost) -> None:
    plates = sorted(latent.plates - cost.plates)
    if plates:
        raise IncompatibleSite(
            f"site {latent.site!r}: it is enumerated inside plate {', '.join(map(repr, plates))}, "
            f"but reaches site {cost.site!r} outside, whose sum would run over the joint values "
            "of all elements; move one of them across the plate, or use "
            "dsvi.estimators.ScoreFunction() here"
        )
