r"""Sites that are summed out of the model, by Pyro's own contraction.

.. math:: c = s \log \sum_z \prod_f f(x, z, u)

Factors f that share a summed site z belong together.  Each such group becomes one cost, in the
plates that Pyro's tensor variable elimination leaves it, and is reached by whatever reaches one of
its factors.  As in ``TraceEnum_ELBO`` a mask acts inside the sum, and a scale s, which a group must
have in common, outside.

References:
    :cite:p:`obermeyer2019tensor`
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators import Estimator, Marginalize
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.graph.alphabet import Alphabet
from pyro_dsvi.graph.messages import declared, enumerated_dims, number_of
from pyro_dsvi.graph.nodes import EVERYTHING, Cost, Run
from pyro_dsvi.graph.packing import alike, letters_of, named

_OUT = Marginalize()  # what a site of the model alone is to us


@dataclass(eq=False)
class _Factor:
    """One factor under a sum: its log, packed, masked and not scaled, and what it depends on."""

    site: str
    log_f: Tensor
    plates: frozenset[str]
    scale: float
    reach: int
    summed: frozenset[str]


def summed_sites(sites: Mapping[str, Any], estimators: Mapping[str, Estimator]) -> dict[str, Any]:
    """The messages at sites to sum out of the model: those that it alone has, or asked for.

    Args:
        sites: the model's messages.
        estimators: the estimator of each site that the guide draws.

    Raises:
        IncompatibleSite: if a site is to be summed out that the model does not have.
    """
    for name, estimator in estimators.items():
        if isinstance(estimator, Marginalize) and name not in sites:
            raise IncompatibleSite(
                f"site {name!r}: Marginalize: the model has no such site to sum out; use "
                "dsvi.estimators.Enumerate() for a site of the guide alone"
            )
    return {
        name: msg
        for name, msg in sites.items()
        if number_of(msg) is not None and isinstance(estimators.get(name, _OUT), Marginalize)
    }


def sum_out(run: Run, sites: Mapping[str, Any], reach: Mapping[str, int]) -> None:
    """Replace all costs that depend on the given sites by their contractions, in place.

    Args:
        run: the run, with all costs of the model but those of the sites.
        sites: the model's messages at the sites to sum out.
        reach: bit set of what reaches each of them.

    Raises:
        IncompatibleSite: if a site of the guide depends on one of them, if scales under one sum
            differ, or if plates overlap otherwise than as a tree.
    """
    if not sites:
        return
    alphabet = Alphabet(run)
    names = {alphabet.letter(_number(msg)): name for name, msg in sites.items()}
    _drop_of_guide(run, sites, {_number(msg): name for name, msg in sites.items()})
    factors = [
        _prior(msg, alphabet, names.keys(), reach.get(name, EVERYTHING))
        for name, msg in sites.items()
    ]
    rest = []
    for cost in run.costs:
        x = alphabet.pack(cost.log_density, cost)
        summed = frozenset(letters_of(x)).intersection(names)
        if not summed:
            rest.append(cost)
            continue
        if cost.of_guide:
            raise _of_guide(cost.site, names[min(summed)])
        scale = _scalar(cost.site, cost.scale)
        # Where the scale is zero the whole sum counts for nothing.
        x = named(x / (scale or 1.0), letters_of(x))
        factors.append(_Factor(cost.site, x, cost.plates, scale, cost.reach, summed))
    run.costs = rest + [_contracted(group, alphabet) for group in _groups(factors)]
    for name in sites:
        run.latents.pop(name, None)  # it is none any more


def _prior(msg: Any, alphabet: Alphabet, summed: Collection[str], reach: int) -> _Factor:
    """The model's own density of a summed site: a mask silences it as a cost, not as a weight."""
    run, name = alphabet.run, msg["name"]
    plates = run.plates_of(msg)
    log_p = declared(msg, sampling_law(msg["fn"]).log_prob(msg["value"]))
    x = alphabet.pack_site(log_p, plates, enumerated_dims(msg))
    mine = frozenset(letters_of(x)).intersection(summed)
    return _Factor(name, x, plates, _scalar(name, msg["scale"]), reach, mine)


def _groups(factors: Sequence[_Factor]) -> list[list[_Factor]]:
    """Factors that share a summed site, directly or through others."""
    tied: list[frozenset[str]] = []
    for factor in factors:
        mine = [letters for letters in tied if letters & factor.summed]
        tied = [letters for letters in tied if letters not in mine]
        tied.append(factor.summed.union(*mine))
    # A support of a single value takes no dimension: such a factor stands for itself.
    alone = [[factor] for factor in factors if not factor.summed]
    groups = [[factor for factor in factors if factor.summed & letters] for letters in tied]
    return [*alone, *(group for group in groups if group)]


def _contracted(factors: Sequence[_Factor], alphabet: Alphabet) -> Cost:
    """One cost for a group of factors."""
    site = ", ".join(factor.site for factor in factors)
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    summed, reach, plates = set(), 0, frozenset[str]()
    scale = _common_scale(factors)
    terms = alike(factor.log_f for factor in factors)
    for factor, term in zip(factors, terms, strict=True):
        tree.setdefault(alphabet.ordinal(factor.plates), []).append(term)
        summed |= factor.summed
        reach |= factor.reach
        plates |= factor.plates
    try:
        contracted = contract_tensor_tree(tree, summed)
    except NotImplementedError as error:
        names = ", ".join(repr(factor.site) for factor in factors)
        raise IncompatibleSite(
            f"site {names}: their plates overlap otherwise than as a tree, so that the sum over "
            f"their joint support does not factorise ({error}); draw one of them in the guide"
        ) from error
    ((ordinal, (x,)),) = contracted.items()
    plates = frozenset(name for name in plates if alphabet.letter(name) in ordinal)
    dims = alphabet.dims_of(x)
    value = scale_and_mask(alphabet.unpack(x, plates, dims), scale, None)
    sites = tuple(factor.site for factor in factors)
    return Cost(site, False, value, plates, reach, scale, None, None, None, dims, sites)


def _common_scale(factors: Sequence[_Factor]) -> float:
    first = factors[0]
    for factor in factors[1:]:
        if not math.isclose(factor.scale, first.scale, rel_tol=1e-12):
            raise IncompatibleSite(
                f"site {factor.site!r}: its scale is {factor.scale:g}, but that of {first.site!r} "
                f"is {first.scale:g}, and both stand under one sum over a support, outside of "
                "which there is room for one scale; scale them alike, subsample neither or both, "
                "or draw the summed site in the guide"
            )
    return first.scale


def _scalar(site: str, scale: Any) -> float:
    if isinstance(scale, Tensor) and scale.dim():
        raise IncompatibleSite(
            f"site {site!r}: its scale has shape {tuple(scale.shape)}, but under a sum over a "
            "support only a number will do; use poutine.mask, or draw the summed site in the guide"
        )
    return float(scale)


def _drop_of_guide(run: Run, sites: Mapping[str, Any], numbers: Mapping[int, str]) -> None:
    """What the guide says of a summed site counts for nothing, nor may it draw by its value."""
    run.costs = [cost for cost in run.costs if not (cost.of_guide and cost.site in sites)]
    for name, latent in run.latents.items():
        shape = getattr(latent.q, "batch_shape", ())
        for dim, number in latent.dims.items():
            if number in numbers and name not in sites and len(shape) >= -dim and shape[dim] > 1:
                raise _of_guide(name, numbers[number])


def _of_guide(site: str, summed: str) -> IncompatibleSite:
    return IncompatibleSite(
        f"site {site!r}: the guide draws it given {summed!r}, which is summed out of the model "
        "and has no value there; draw it without, or use another estimator at "
        f"{summed!r}"
    )


def _number(msg: Any) -> int:
    number = number_of(msg)
    assert number is not None  # only enumerated sites are summed
    return number
