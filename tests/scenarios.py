"""Small programs with known answers, each written twice: in Pyro, and by hand as densities.

A :class:`Scenario` has a model and a guide that read their parameters from the param store, and
``play``, which says the same in plain torch: what the guide's discrete draws weigh, and which log
weights the draws give, group by group, for all draws in a batch.  ``play`` uses nothing of Pyro,
of ``torch.distributions`` or of the package.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import param, poutine, sample
from torch import Tensor
from torch.nn.functional import softplus

Values = Mapping[str, Tensor]


class Latent(NamedTuple):
    """A site of the guide.

    Attributes:
        shape: its batch shape, without particles.
        support: all values of one element, shape ``[V, *event]``; None for a Normal site, whose
            draws are given as noise of mean zero and variance one.
    """

    shape: tuple[int, ...] = ()
    support: Tensor | None = None


class Group(NamedTuple):
    """Log weights that stand under one bound, ``[S, *plates]``, and the factor outside it."""

    log_w: Tensor
    weight: float = 1.0


class Played(NamedTuple):
    """Log probability ``[S]`` of the discrete draws, and the groups of log weights."""

    log_q: Tensor
    groups: list[Group]


@dataclass(frozen=True)
class Scenario:
    """A model and a guide, and by hand what they mean.

    Attributes:
        start: values of the parameters.
        latents: the guide's sites, by name.
        merges: whether a bound of several particles ties elements of a plate together.
        broadcasts: whether particles can be run side by side.
        copies: whether the programs also run as so many independent copies in a plate.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    start: Mapping[str, Any]
    latents: Mapping[str, Latent]
    play: Callable[[Values, Values], Played]
    merges: bool = False
    broadcasts: bool = True
    copies: bool = False

    @property
    def discrete(self) -> list[str]:
        """Names of the sites that are not Normal."""
        return [name for name, latent in self.latents.items() if latent.support is not None]

    def parameters(self) -> dict[str, Tensor]:
        """Fresh leaf tensors with the start values."""
        return {name: f64(value).requires_grad_() for name, value in self.start.items()}


def f64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


BIT = f64([0.0, 1.0])
ONE_HOT = torch.eye(3, dtype=torch.float64)
INDEX = torch.arange(3)
TWO_BITS = torch.cartesian_prod(BIT, BIT)


def bernoulli(logit: Tensor, b: Tensor) -> Tensor:
    return b * logit - softplus(logit)


def normal(x: Any, loc: Any, log_scale: Any) -> Tensor:
    log_scale = torch.as_tensor(log_scale, dtype=torch.float64)
    return -0.5 * ((x - loc) / log_scale.exp()) ** 2 - log_scale - 0.9189385332046727


def categorical(logits: Tensor, one_hot: Tensor) -> Tensor:
    return (one_hot * (logits - logits.logsumexp(-1, keepdim=True))).sum(-1)


def flip(name: str, logit: Any, **options: Any) -> Tensor:
    return sample(name, dist.Bernoulli(logits=logit), **options)


def gauss(name: str, loc: Any, log_scale: Any, **options: Any) -> Tensor:
    log_scale = torch.as_tensor(log_scale, dtype=torch.float64)
    return sample(name, dist.Normal(loc, log_scale.exp()), **options)


# -- one bit ---------------------------------------------------------------------------------


def _single_model():
    b = flip("b", param("prior"))
    gauss("x", param("slope") * b, 0.0, obs=f64(0.8))


def _single_guide():
    flip("b", param("eta"))


def _single(θ, z):
    b = z["b"]
    log_q = bernoulli(θ["eta"], b)
    return Played(
        log_q, [Group(bernoulli(θ["prior"], b) + normal(0.8, θ["slope"] * b, 0.0) - log_q)]
    )


single = Scenario(
    _single_model,
    _single_guide,
    {"prior": -0.4, "slope": 1.3, "eta": 0.3},
    {"b": Latent((), BIT)},
    _single,
)


# -- a chain, each bit with an observation of its own ----------------------------------------

_CHAIN = (0.9, -0.7, 0.4)


def _chain(length: int) -> Scenario:
    def model():
        b = f64(0.0)
        for i in range(length):
            b = flip(f"b{i}", param("prior") + param("link") * b)
            gauss(f"x{i}", param("slope") * b, 0.2, obs=f64(_CHAIN[i]))

    def guide():
        b = f64(0.0)
        for i in range(length):
            b = flip(f"b{i}", param(f"eta{i}") + param("follow") * b)

    def play(θ, z):
        log_q = log_p = before = 0.0
        for i in range(length):
            b = z[f"b{i}"]
            log_q = log_q + bernoulli(θ[f"eta{i}"] + θ["follow"] * before, b)
            log_p = log_p + bernoulli(θ["prior"] + θ["link"] * before, b)
            log_p = log_p + normal(_CHAIN[i], θ["slope"] * b, 0.2)
            before = b
        return Played(log_q, [Group(log_p - log_q)])

    start = {"prior": -0.3, "link": 0.8, "slope": 1.1, "follow": -0.6}
    etas = {f"eta{i}": 0.5 - 0.4 * i for i in range(length)}
    latents = {f"b{i}": Latent((), BIT) for i in range(length)}
    return Scenario(model, guide, start | etas, latents, play)


pair, chain = _chain(2), _chain(3)


# -- branches, by Python's own if ------------------------------------------------------------


def _branch_model():
    if flip("side", param("prior")).item():
        x = param("slope") * flip("left", f64(0.2))
    else:
        x = param("places")[sample("right", dist.Categorical(logits=f64([0.1, 0.0, -0.3])))]
    gauss("x", x, 0.0, obs=f64(0.6))


def _branch_guide():
    if flip("side", param("eta")).item():
        flip("left", param("left"))
    else:
        sample("right", dist.Categorical(logits=param("right")))


def _branch(θ, z):
    side = z["side"]
    here, right = side == 1, z["right"]
    one_hot = ONE_HOT[right]
    # The site that is not visited counts once, at its first value.
    unseen = torch.where(here, right != 0, z["left"] != 0)
    log_left, log_right = bernoulli(θ["left"], z["left"]), categorical(θ["right"], one_hot)
    log_q = bernoulli(θ["eta"], side) + torch.where(here, log_left, log_right)
    left = bernoulli(f64(0.2), z["left"]) + normal(0.6, θ["slope"] * z["left"], 0.0)
    other = categorical(f64([0.1, 0.0, -0.3]), one_hot) + normal(0.6, θ["places"][right], 0.0)
    log_p = bernoulli(θ["prior"], side) + torch.where(here, left, other)
    return Played(torch.where(unseen, -torch.inf, log_q), [Group(log_p - log_q)])


branch = Scenario(
    _branch_model,
    _branch_guide,
    {
        "prior": 0.2,
        "slope": 0.9,
        "places": [0.5, -0.4, 1.5],
        "eta": -0.3,
        "left": 0.4,
        "right": [0.3, -0.2, 0.5],
    },
    {"side": Latent((), BIT), "left": Latent((), BIT), "right": Latent((), INDEX)},
    _branch,
    broadcasts=False,
)


# -- plates ----------------------------------------------------------------------------------

_DATA = f64([0.9, -0.5])


def _data_model():
    with pyro.plate("data", 2):
        _element()


def _element() -> None:
    b = flip("b", param("prior"))
    gauss("x", param("slope") * b, 0.1, obs=_DATA)


def _data_guide():
    with pyro.plate("data", 2):
        flip("b", param("eta"))


def _data(θ, z):
    b = z["b"]
    log_q = bernoulli(θ["eta"], b)
    log_p = bernoulli(θ["prior"], b) + normal(_DATA, θ["slope"] * b, 0.1)
    return Played(log_q.sum(-1), [Group(log_p - log_q)])


data = Scenario(
    _data_model,
    _data_guide,
    {"prior": 0.3, "slope": 1.2, "eta": [0.6, -0.5]},
    {"b": Latent((2,), BIT)},
    _data,
)


def _shared_model():
    g = flip("g", param("prior"))
    with pyro.plate("data", 2):
        b = flip("b", param("link") * g)
        gauss("x", param("slope") * b, 0.1, obs=_DATA)


def _shared_guide():
    g = flip("g", param("eta"))
    with pyro.plate("data", 2):
        flip("b", param("local") + 0.5 * g)


def _shared(θ, z):
    g, b = z["g"].unsqueeze(-1), z["b"]
    log_q = bernoulli(θ["eta"], g[..., 0]) + bernoulli(θ["local"] + 0.5 * g, b).sum(-1)
    local = bernoulli(θ["link"] * g, b) + normal(_DATA, θ["slope"] * b, 0.1)
    return Played(log_q, [Group(bernoulli(θ["prior"], g[..., 0]) + local.sum(-1) - log_q)])


shared = Scenario(
    _shared_model,
    _shared_guide,
    {"prior": 0.4, "link": -0.7, "slope": 1.2, "eta": 0.2, "local": [0.6, -0.5]},
    {"g": Latent((), BIT), "b": Latent((2,), BIT)},
    _shared,
    merges=True,
)

_GRID = f64([[0.9, -0.5], [0.3, 1.4]])


def _grid_plates():
    return pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 2, dim=-1)


def _grid_model():
    outer, inner = _grid_plates()
    with outer, inner:
        b = flip("b", param("prior"))
        gauss("x", param("slope") * b, 0.1, obs=_GRID)


def _grid_guide():
    outer, inner = _grid_plates()
    with outer, inner:
        flip("b", param("eta"))


def _grid(θ, z):
    b = z["b"]
    log_q = bernoulli(θ["eta"], b)
    log_p = bernoulli(θ["prior"], b) + normal(_GRID, θ["slope"] * b, 0.1)
    return Played(log_q.sum((-1, -2)), [Group(log_p - log_q)])


grid = Scenario(
    _grid_model,
    _grid_guide,
    {"prior": [[-0.2], [0.3]], "slope": 0.8, "eta": [0.4, -0.6]},
    {"b": Latent((2, 2), BIT)},
    _grid,
)


def _rows_model():
    outer, inner = _grid_plates()
    with outer:
        a = flip("a", param("prior"))
        with inner:
            gauss("x", param("slope") * a, 0.1, obs=_GRID)


def _rows_guide():
    with _grid_plates()[0]:
        flip("a", param("eta"))


def _rows(θ, z):
    a = z["a"]
    log_q = bernoulli(θ["eta"], a)
    local = normal(_GRID, θ["slope"] * a, 0.1).sum(-1, keepdim=True)
    return Played(
        log_q.sum((-1, -2)), [Group((bernoulli(θ["prior"], a) + local - log_q).squeeze(-1))]
    )


rows = Scenario(
    _rows_model,
    _rows_guide,
    {"prior": 0.3, "slope": 1.2, "eta": [[0.6], [-0.5]]},
    {"a": Latent((2, 1), BIT)},
    _rows,
    merges=True,
)


def _nested_model():
    outer, inner = _grid_plates()
    with outer:
        a = flip("a", param("prior"))
        with inner:
            b = flip("b", param("link") * a)
            gauss("x", param("slope") * b, 0.1, obs=_GRID)


def _nested_guide():
    outer, inner = _grid_plates()
    with outer:
        a = flip("a", param("eta"))
        with inner:
            flip("b", param("local") - 0.4 * a)


def _nested(θ, z):
    a, b = z["a"], z["b"]
    q_b = bernoulli(θ["local"] - 0.4 * a, b).sum(-1, keepdim=True)
    log_q = bernoulli(θ["eta"], a) + q_b
    local = bernoulli(θ["link"] * a, b) + normal(_GRID, θ["slope"] * b, 0.1)
    log_p = bernoulli(θ["prior"], a) + local.sum(-1, keepdim=True)
    return Played(log_q.sum((-1, -2)), [Group((log_p - log_q).squeeze(-1))])


nested = Scenario(
    _nested_model,
    _nested_guide,
    {
        "prior": 0.3,
        "link": 0.7,
        "slope": 1.2,
        "eta": [[0.6], [-0.5]],
        "local": [[0.2, -0.3], [0.5, 0.1]],
    },
    {"a": Latent((2, 1), BIT), "b": Latent((2, 2), BIT)},
    _nested,
    merges=True,
)


# -- plates of which a part is seen, and parts that nothing ties ------------------------------


def _subsampled():
    return pyro.plate("data", 5, subsample=torch.tensor([3, 1]))


def _subsampled_model():
    with _subsampled():
        _element()


def _subsampled_guide():
    with _subsampled():
        flip("b", param("eta"))


def _subsample(θ, z):
    played = _data(θ, z)
    return Played(played.log_q, [Group(played.groups[0].log_w, 5 / 2)])


subsampled = Scenario(_subsampled_model, _subsampled_guide, data.start, data.latents, _subsample)


def _apart_model():
    g = flip("g", param("own"))
    gauss("y", param("lift") * g, 0.0, obs=f64(0.4))
    with pyro.plate("data", 2):
        _element()


def _apart_guide():
    flip("g", param("mine"))
    with pyro.plate("data", 2):
        flip("b", param("eta"))


def _apart(θ, z):
    g, played = z["g"], _data(θ, z)
    q_g = bernoulli(θ["mine"], g)
    log_w = bernoulli(θ["own"], g) + normal(0.4, θ["lift"] * g, 0.0) - q_g
    return Played(q_g + played.log_q, [Group(log_w), *played.groups])


apart = Scenario(
    _apart_model,
    _apart_guide,
    {**data.start, "own": 0.2, "lift": 0.9, "mine": -0.5},
    {"g": Latent((), BIT), **data.latents},
    _apart,
)


# -- event dimensions ------------------------------------------------------------------------


def _events_model():
    k = sample("k", dist.OneHotCategorical(logits=param("prior")))
    bits = sample("bits", dist.Bernoulli(logits=k @ param("table")).to_event(1))
    gauss("x", (bits * param("slope")).sum(-1), 0.0, obs=f64(0.7))


def _events_guide():
    k = sample("k", dist.OneHotCategorical(logits=param("eta")))
    sample("bits", dist.Bernoulli(logits=param("local") + k[..., :2]).to_event(1))


def _events(θ, z):
    k, bits = z["k"], z["bits"]
    log_q = categorical(θ["eta"], k) + bernoulli(θ["local"] + k[..., :2], bits).sum(-1)
    log_p = categorical(θ["prior"], k) + bernoulli(k @ θ["table"], bits).sum(-1)
    return Played(log_q, [Group(log_p + normal(0.7, (bits * θ["slope"]).sum(-1), 0.0) - log_q)])


events = Scenario(
    _events_model,
    _events_guide,
    {
        "prior": [0.2, 0.0, -0.4],
        "table": [[0.3, -0.2], [0.1, 0.6], [-0.5, 0.4]],
        "slope": [1.1, -0.6],
        "eta": [0.1, -0.3, 0.4],
        "local": [0.2, -0.1],
    },
    {"k": Latent((), ONE_HOT), "bits": Latent((), TWO_BITS)},
    _events,
)


# -- scale, masks, and a draw of the guide's own ---------------------------------------------


def _scaled_model():
    with poutine.scale(scale=0.3):
        _single_model()


def _scaled_guide():
    with poutine.scale(scale=0.3):
        _single_guide()


def _scaled(θ, z):
    played = _single(θ, z)
    return Played(played.log_q, [Group(played.groups[0].log_w, 0.3)])


scaled = Scenario(_scaled_model, _scaled_guide, single.start, single.latents, _scaled)


def _tempered_model():
    b0 = flip("b0", param("prior"))
    with poutine.scale(scale=2.0):
        b1 = flip("b1", param("link") * b0)
    with poutine.scale(scale=0.6):
        gauss("x", param("slope") * (b0 + b1), 0.2, obs=f64(0.9))


def _tempered_guide():
    b0 = flip("b0", param("eta"))
    with poutine.scale(scale=1.5):
        flip("b1", param("local") + 0.7 * b0)


def _tempered(θ, z):
    b0, b1 = z["b0"], z["b1"]
    q0, q1 = bernoulli(θ["eta"], b0), bernoulli(θ["local"] + 0.7 * b0, b1)
    log_p = bernoulli(θ["prior"], b0) + 2.0 * bernoulli(θ["link"] * b0, b1)
    log_p = log_p + 0.6 * normal(0.9, θ["slope"] * (b0 + b1), 0.2)
    return Played(q0 + q1, [Group(log_p - q0 - 1.5 * q1)])


tempered = Scenario(
    _tempered_model,
    _tempered_guide,
    {"prior": 0.3, "link": 0.7, "slope": 0.8, "eta": 0.5, "local": -0.4},
    {"b0": Latent((), BIT), "b1": Latent((), BIT)},
    _tempered,
)

_IN_GUIDE = torch.tensor([True, False])
_IN_MODEL = torch.tensor([False, True])


def _masked_model():
    with pyro.plate("data", 2):
        b = sample("b", dist.Bernoulli(logits=param("prior")).mask(_IN_MODEL))
        with poutine.mask(mask=_IN_GUIDE):
            c = flip("c", param("link") * b)
        gauss("x", param("slope") * (b + c), 0.1, obs=_DATA)


def _masked_guide():
    with pyro.plate("data", 2):
        with poutine.mask(mask=_IN_GUIDE):
            b = flip("b", param("eta"))
        sample("c", dist.Bernoulli(logits=param("local") * b).mask(_IN_MODEL))


def _masked(θ, z):
    b, c = z["b"], z["c"]
    q_b, q_c = bernoulli(θ["eta"], b), bernoulli(θ["local"] * b, c)
    log_w = _IN_MODEL * bernoulli(θ["prior"], b) + _IN_GUIDE * bernoulli(θ["link"] * b, c)
    log_w = log_w + normal(_DATA, θ["slope"] * (b + c), 0.1)
    return Played((q_b + q_c).sum(-1), [Group(log_w - _IN_GUIDE * q_b - _IN_MODEL * q_c)])


masked = Scenario(
    _masked_model,
    _masked_guide,
    {"prior": 0.4, "link": 0.8, "slope": 0.9, "eta": [0.5, -0.2], "local": 0.7},
    {"b": Latent((2,), BIT), "c": Latent((2,), BIT)},
    _masked,
)


def _auxiliary_guide():
    u = flip("u", param("aux"), infer={"is_auxiliary": True})
    flip("b", param("eta") * u)


def _auxiliary(θ, z):
    b, u = z["b"], z["u"]
    log_q = bernoulli(θ["aux"], u) + bernoulli(θ["eta"] * u, b)
    return Played(
        log_q, [Group(bernoulli(θ["prior"], b) + normal(0.8, θ["slope"] * b, 0.0) - log_q)]
    )


auxiliary = Scenario(
    _single_model,
    _auxiliary_guide,
    {"prior": -0.4, "slope": 1.3, "eta": 0.9, "aux": 0.4},
    {"u": Latent((), BIT), "b": Latent((), BIT)},
    _auxiliary,
)


# -- Normal sites, of scales near the prior's so that quadrature converges fast ---------------


def _copies(copies: int | None):
    return nullcontext() if copies is None else pyro.plate("copies", copies)


def _normal_first_model(copies=None):
    with _copies(copies):
        z = gauss("z", param("prior"), -1.0)
        b = flip("b", param("link") * z)
        gauss("x", param("slope") * (z + b), 0.3, obs=f64(0.7))


def _normal_first_guide(copies=None):
    with _copies(copies):
        z = gauss("z", param("loc"), param("log_scale"))
        flip("b", param("local") + 0.8 * z)


def _normal_first(θ, noise):
    b = noise["b"]
    z = θ["loc"] + θ["log_scale"].exp() * noise["z"]
    q_b = bernoulli(θ["local"] + 0.8 * z, b)
    log_p = normal(z, θ["prior"], -1.0) + bernoulli(θ["link"] * z, b)
    log_p = log_p + normal(0.7, θ["slope"] * (z + b), 0.3)
    return Played(q_b, [Group(log_p - q_b - normal(z, θ["loc"], θ["log_scale"]))])


normal_first = Scenario(
    _normal_first_model,
    _normal_first_guide,
    {"prior": 0.2, "link": 1.4, "slope": 0.8, "loc": 0.3, "log_scale": -1.1, "local": -0.2},
    {"z": Latent(), "b": Latent((), BIT)},
    _normal_first,
    copies=True,
)


def _normal_last_model(copies=None):
    with _copies(copies):
        b = flip("b", param("prior"))
        z = gauss("z", param("link") * b, -1.0)
        gauss("x", param("slope") * z, 0.3, obs=f64(0.7))


def _normal_last_guide(copies=None):
    with _copies(copies):
        b = flip("b", param("eta"))
        gauss("z", param("loc") + param("shift") * b, -1.1 + param("spread") * b)


def _normal_last(θ, noise):
    b = noise["b"]
    loc, log_scale = θ["loc"] + θ["shift"] * b, -1.1 + θ["spread"] * b
    z = loc + log_scale.exp() * noise["z"]
    q_b = bernoulli(θ["eta"], b)
    log_p = bernoulli(θ["prior"], b) + normal(z, θ["link"] * b, -1.0)
    log_p = log_p + normal(0.7, θ["slope"] * z, 0.3)
    return Played(q_b, [Group(log_p - q_b - normal(z, loc, log_scale))])


normal_last = Scenario(
    _normal_last_model,
    _normal_last_guide,
    {
        "prior": 0.2,
        "link": 0.4,
        "slope": 0.8,
        "eta": -0.4,
        "loc": 0.1,
        "shift": 0.3,
        "spread": 0.05,
    },
    {"b": Latent((), BIT), "z": Latent()},
    _normal_last,
    copies=True,
)


def weighted(first: float | Tensor, second: float | Tensor) -> Scenario:
    """The hierarchy with a scale (or a mask, for 0 or a tensor) at each latent, in both programs.

    The data count in full.
    """

    def model(copies=None):
        with _copies(copies):
            with _weight(first):
                z = gauss("z", param("prior"), -1.0)
            with _weight(second):
                y = gauss("y", param("link") * z, -1.0)
            gauss("x", param("slope") * (z + y), 0.5, obs=f64(0.7))

    def guide(copies=None):
        with _copies(copies):
            with _weight(first):
                z = gauss("z", param("loc"), param("log_scale"))
            loc, log_scale = _second(param("shift"), param("follow"), param("log_scale"), z)
            with _weight(second):
                gauss("y", loc, log_scale)

    def play(θ, noise):
        z = θ["loc"] + θ["log_scale"].exp() * noise["z"]
        loc, log_scale = _second(θ["shift"], θ["follow"], θ["log_scale"], z)
        y = loc + log_scale.exp() * noise["y"]
        log_w = first * (normal(z, θ["prior"], -1.0) - normal(z, θ["loc"], θ["log_scale"]))
        log_w = log_w + second * (normal(y, θ["link"] * z, -1.0) - normal(y, loc, log_scale))
        log_w = log_w + normal(0.7, θ["slope"] * (z + y), 0.5)
        return Played(torch.zeros_like(noise["z"]), [Group(log_w)])

    start = {
        "prior": 0.1,
        "link": 0.5,
        "slope": 0.7,
        "loc": 0.2,
        "log_scale": -1.04,
        "shift": 0.1,
        "follow": 0.4,
    }
    return Scenario(model, guide, start, {"z": Latent(), "y": Latent()}, play, copies=True)


def _second(shift, follow, log_scale, z):
    return shift + follow * z, -0.84 + 0.2 * log_scale


def _weight(factor: float | Tensor):
    if isinstance(factor, Tensor):
        return poutine.mask(mask=factor)
    return poutine.mask(mask=False) if factor == 0 else poutine.scale(scale=factor)


hierarchy = weighted(1.0, 1.0)

SCENARIOS = {
    name: value for name, value in sorted(globals().items()) if isinstance(value, Scenario)
}
