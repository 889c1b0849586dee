"""The programs of the certificate: a distribution in a plate layout, alone or as many copies.

Every program runs as ``copies`` independent copies in a plate of their own, with parameters of
their own, so that one step gives as many independent estimates of the gradient.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics import Enumeration, Gradient
from pyro_dsvi.diagnostics.programs import Programs
from tests.scenarios import f64

_PLACES = f64([0.0, 1.0, -0.7])  # what the categories stand for


@dataclass(frozen=True)
class Family:
    """A discrete distribution.

    Attributes:
        law: the distribution with given logits, shape ``[*batch, *event]``.
        event: shape of one element's logits.
        number: what a value means to the rest of the program, shape ``[*batch]``.
    """

    law: Callable[[Tensor], Any]
    event: tuple[int, ...]
    number: Callable[[Tensor], Tensor]

    def logits(self, *batch: int, shift: float = 0.0) -> Tensor:
        """Uneven logits, different in each element."""
        count = torch.Size((*batch, *self.event)).numel()
        each = torch.arange(count, dtype=torch.float64).add(1 + shift).sin()
        return 0.8 * each.reshape((*batch, *self.event))

    def shifted(self, logits: Tensor, number: Tensor) -> Tensor:
        """Logits that depend on what was drawn upstream."""
        tilt = torch.arange(1.0, self.logits().numel() + 1, dtype=torch.float64).cos()
        number = number.reshape((*number.shape, *[1] * len(self.event)))
        return logits + 0.7 * number * tilt.reshape(self.event)


FAMILIES = {
    "Bernoulli": Family(lambda t: dist.Bernoulli(logits=t), (), lambda z: z),
    "Categorical": Family(lambda t: dist.Categorical(logits=t), (3,), lambda z: _PLACES[z]),
    "OneHotCategorical": Family(
        lambda t: dist.OneHotCategorical(logits=t), (3,), lambda z: z @ _PLACES
    ),
    "Bernoulli, event": Family(
        lambda t: dist.Bernoulli(logits=t).to_event(1),
        (2,),
        lambda z: z @ f64([1.0, -0.6]),
    ),
    "Categorical, event": Family(
        lambda t: dist.Categorical(logits=t).to_event(1),
        (2, 3),
        lambda z: _PLACES[z] @ f64([1.0, -0.6]),
    ),
    "OneHotCategorical, event": Family(
        lambda t: dist.OneHotCategorical(logits=t).to_event(1),
        (2, 3),
        lambda z: z @ _PLACES @ f64([1.0, -0.6]),
    ),
}


@dataclass(frozen=True)
class Program:
    """A model and a guide, in a plate layout.

    Attributes:
        model: takes the family and a context for the copies.
        guide: the same.
        start: values of the parameters, from the family: ``depth`` plate dimensions, then events.
        sites: names of the discrete sites.
        depth: plate dimensions.
    """

    model: Callable[[Family, Any], None]
    guide: Callable[[Family, Any], None]
    start: Callable[[Family], Mapping[str, Tensor]]
    sites: tuple[str, ...] = ("z",)
    depth: int = 0

    def copied(self, family: Family, copies: int | None) -> tuple[Callable, Callable]:
        """Model and guide, with the parameters of every copy in the store."""
        pyro.clear_param_store()
        for name, value in self.start(family).items():
            value = value if copies is None else value.expand(copies, *value.shape)
            pyro.param(name, value.clone())

        def plate():
            return nullcontext() if copies is None else pyro.plate("copies", copies, dim=dim)

        dim = -1 - self.depth
        return partial(_run, self.model, family, plate), partial(_run, self.guide, family, plate)


def _run(program: Callable, family: Family, plate: Callable) -> None:
    with plate():
        program(family)


def _observe(loc: Any, *shape: int) -> None:
    data = torch.linspace(-0.4, 1.3, torch.Size(shape).numel(), dtype=torch.float64)
    pyro.sample("x", dist.Normal(loc, f64(0.8)), obs=data.reshape(shape))


def _draw(family: Family, name: str, logits: Any) -> Tensor:
    return family.number(pyro.sample(name, family.law(logits)))


# -- no plate --------------------------------------------------------------------------------


def _alone_model(family):
    _observe(pyro.param("slope") * _draw(family, "z", pyro.param("prior")))


def _alone_guide(family):
    _draw(family, "z", pyro.param("eta"))


alone = Program(
    _alone_model,
    _alone_guide,
    lambda f: {"prior": f.logits(shift=2), "slope": f64(1.2), "eta": f.logits()},
)


# -- one plate -------------------------------------------------------------------------------


def _plate_model(family):
    with pyro.plate("data", 2, dim=-1):
        _observe(pyro.param("slope") * _draw(family, "z", pyro.param("prior")), 2)


def _plate_guide(family):
    with pyro.plate("data", 2, dim=-1):
        _draw(family, "z", pyro.param("eta"))


one_plate = Program(
    _plate_model,
    _plate_guide,
    lambda f: {"prior": f.logits(1, shift=2), "slope": f64([1.2]), "eta": f.logits(2)},
    depth=1,
)


# -- a plate within a plate: every element has two data --------------------------------------


def _nested_model(family):
    with pyro.plate("outer", 2, dim=-2):
        number = _draw(family, "z", pyro.param("prior"))
        with pyro.plate("inner", 2, dim=-1):
            _observe(pyro.param("slope") * number, 2, 2)


def _nested_guide(family):
    with pyro.plate("outer", 2, dim=-2):
        _draw(family, "z", pyro.param("eta"))


nested = Program(
    _nested_model,
    _nested_guide,
    lambda f: {"prior": f.logits(1, 1, shift=2), "slope": f64([[1.2]]), "eta": f.logits(2, 1)},
    depth=2,
)


# -- two plates that cross: the data have a row's and a column's -----------------------------


def _crossed_model(family):
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)
    with rows:
        row = _draw(family, "z1", pyro.param("prior"))
    with columns:
        column = _draw(family, "z2", pyro.param("prior"))
    with rows, columns:
        _observe(pyro.param("slope") * row + 0.5 * column, 2, 2)


def _crossed_guide(family):
    with pyro.plate("rows", 2, dim=-2):
        _draw(family, "z1", pyro.param("eta1"))
    with pyro.plate("columns", 2, dim=-1):
        _draw(family, "z2", pyro.param("eta2"))


crossed = Program(
    _crossed_model,
    _crossed_guide,
    lambda f: {
        "prior": f.logits(1, 1, shift=2),
        "slope": f64([[1.2]]),
        "eta1": f.logits(2, 1),
        "eta2": f.logits(1, 2, shift=1),
    },
    sites=("z1", "z2"),
    depth=2,
)


# -- one site upstream of another ------------------------------------------------------------


def _chain_model(family):
    first = _draw(family, "z1", pyro.param("prior"))
    second = _draw(family, "z2", family.shifted(pyro.param("prior"), first))
    _observe(pyro.param("slope") * second + 0.4 * first)


def _chain_guide(family):
    first = _draw(family, "z1", pyro.param("eta1"))
    _draw(family, "z2", family.shifted(pyro.param("eta2"), -first))


chain = Program(
    _chain_model,
    _chain_guide,
    lambda f: {
        "prior": f.logits(shift=2),
        "slope": f64(1.2),
        "eta1": f.logits(),
        "eta2": f.logits(shift=1),
    },
    sites=("z1", "z2"),
)


# -- upstream of a Normal site, which goes by the path ---------------------------------------


def _then_normal_model(family):
    number = _draw(family, "z", pyro.param("prior"))
    y = pyro.sample("y", dist.Normal(0.6 * number, f64(0.7)))
    _observe(pyro.param("slope") * y)


def _then_normal_guide(family):
    number = _draw(family, "z", pyro.param("eta"))
    pyro.sample("y", dist.Normal(pyro.param("loc") + 0.5 * number, f64(0.6)))


then_normal = Program(
    _then_normal_model,
    _then_normal_guide,
    lambda f: {
        "prior": f.logits(shift=2),
        "slope": f64(1.2),
        "eta": f.logits(),
        "loc": f64(0.2),
    },
)


LAYOUTS = {
    "no plate": alone,
    "one plate": one_plate,
    "nested plates": nested,
    "crossed plates": crossed,
    "chain": chain,
    "then Normal": then_normal,
}


@dataclass(frozen=True)
class Certified:
    """An estimator that is offered, and what it does not serve.

    Attributes:
        make: makes one for a site.
        fewest: the fewest particles it works with.
        refuses: combinations of families, layouts and bounds that are refused, with the site's
            name.
        biased: whether it is known to be biased; the certificate then has to say so.
    """

    make: Callable[[], Any]
    fewest: int = 1
    refuses: tuple[tuple[str, ...], ...] = ()
    biased: bool = False


@cache
def reference(layout: str, family: str, bound: Bound, num_particles: int) -> Gradient:
    """The exact gradient, once for all estimators."""
    programs = Programs(*LAYOUTS[layout].copied(FAMILIES[family], None))
    try:
        return Enumeration().find(programs, bound, num_particles, None).gradient
    finally:
        pyro.clear_param_store()


def estimates(layout: str, family: str, objective: Any, copies: int) -> Gradient:
    """One step of many copies, after one from which baselines may learn."""
    model, guide = LAYOUTS[layout].copied(FAMILIES[family], copies)
    objective.loss_and_grads(model, guide)
    leaves = dict(pyro.get_param_store().named_parameters())
    for leaf in leaves.values():
        leaf.grad = None
    objective.loss_and_grads(model, guide)
    zeros = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    samples = {n: zeros[n] if p.grad is None else -p.grad for n, p in leaves.items()}
    return Gradient.of_samples(samples, f"{copies} copies of one step")
