"""Influence is never guessed away, and never invented where it can be followed.

Each *route* takes a Bernoulli draw to a number. Whatever the route, the expected gradient of the
score function, summed over every draw, must be the true one: a latent that reaches a cost only
through Python, numpy or a shape must get its credit there. And a latent that reaches nothing but
its own costs must get no other, draw by draw.
"""

import copy
import functools
import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pyro_dsvi as dsvi
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.preexisting import know
from tests.draws import elbo, every_draw, expected_gradient, gradient, gradient_at

TABLE = torch.tensor([0.3, 1.7], dtype=torch.float64)
ROWS = [0.3, 1.7]
OTHER = torch.tensor(0.2, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


def inplace(z: Tensor) -> Tensor:
    t = torch.zeros(())
    t.add_(z)
    return t


def inplace_through_a_view(z: Tensor) -> Tensor:
    t = torch.zeros(2)
    view = t[:1]
    view.add_(z)
    return t.sum()


def inplace_seen_by_an_older_view(z: Tensor) -> Tensor:
    t = torch.zeros(2)
    view = t.view(2, 1)
    t[0] = z
    return view.sum()


def setitem(z: Tensor) -> Tensor:
    t = torch.zeros(2)
    t[0] = 2 * z
    return t.sum()


def setitem_index(z: Tensor) -> Tensor:
    t = torch.zeros(2)
    t[z.long()] = 1.7
    return t[0]


def setitem_mask(z: Tensor) -> Tensor:
    t = torch.zeros(2)
    t[torch.stack([z > 0.5, z < 0.5])] = 1.7
    return t[0]


def out_argument(z: Tensor) -> Tensor:
    t = torch.zeros(())
    torch.mul(z, 2.0, out=t)
    return t


def set_data(z: Tensor) -> Tensor:
    t = torch.zeros(())
    t.data = 2 * z
    return t


def branch(z: Tensor) -> Tensor:
    return torch.tensor(1.7) if z else torch.tensor(0.3)


def loop(z: Tensor) -> Tensor:
    x = torch.tensor(0.3)
    while x < 2 * z:
        x = x + 0.4
    return x


def count(z: Tensor) -> Tensor:
    return torch.tensor(sum(0.7 for _ in range(int(z))))


def split_sizes(z: Tensor) -> Tensor:
    return torch.tensor(float(len(torch.arange(3.0).split(int(z) + 1))))


def memory_shared_with_numpy(z: Tensor) -> Tensor:
    array = np.zeros(1)
    torch.from_numpy(array)[0] = z
    return torch.tensor(array[0])


def memory_shared_earlier(z: Tensor) -> Tensor:
    t = torch.zeros(1)
    array = t.numpy()
    t += z
    return torch.tensor(array[0])


@torch.no_grad()
def without_gradient(z: Tensor) -> Tensor:
    return 2 * z


def autograd_function(z: Tensor) -> Tensor:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.from_numpy(x.numpy() + np.zeros(1)).squeeze()

    return Double.apply(z)


def linear(z: Tensor) -> Tensor:
    net = torch.nn.Linear(1, 1)
    torch.nn.init.ones_(net.weight)
    torch.nn.init.ones_(net.bias)
    return net.requires_grad_(False)(z.reshape(1)).squeeze()


def parameters_of_a_network(z: Tensor) -> Tensor:
    net = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    net.weight.fill_(2.0)
    net.weight.mul_(z)
    return net(torch.ones(1)).squeeze()


def vmapped(z: Tensor) -> Tensor:
    return torch.func.vmap(lambda u: 2 * u)(z.expand(3)).mean()


def functional_gradient(z: Tensor) -> Tensor:
    return torch.func.grad(lambda u: u * u)(z)


def distribution_mean(z: Tensor) -> Tensor:
    return dist.Normal(2 * z, 1.0).mean


def transformed(z: Tensor) -> Tensor:
    return torch.distributions.AffineTransform(z, 2.0)(torch.tensor(0.3))


ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda z: 2 * z + 0.3,
    "reflected": lambda z: 2 - z,
    "stack": lambda z: torch.stack([z, torch.ones(())]).sum(),
    "clone": lambda z: z.clone().detach(),
    "data": lambda z: z.data * 2,
    "deepcopy": lambda z: copy.deepcopy(z),
    "copy": lambda z: copy.copy(z) * 2,
    "index": lambda z: TABLE[z.long()],
    "index, several": lambda z: TABLE.reshape(1, 2)[0, z.long()],
    "index select": lambda z: TABLE.index_select(0, z.long().reshape(1)).squeeze(),
    "gather": lambda z: TABLE.gather(0, z.long().reshape(1)).squeeze(),
    "select": lambda z: TABLE.select(0, z.long()),
    "narrow": lambda z: TABLE.narrow(0, z.long(), 1).sum(),
    "unbind": lambda z: torch.stack([z, z]).unbind()[0] * 2,
    "where": lambda z: torch.where(z > 0.5, 1.7, 0.3),
    "max": lambda z: torch.max(torch.stack([z, 1 - z]), dim=0).indices.double(),
    "item": lambda z: torch.tensor(2 * z.item()),
    "float": lambda z: torch.tensor(2 * float(z)),
    "int": lambda z: torch.tensor(ROWS[int(z)]),
    "int, module's table": lambda z: TABLE[int(z)],
    "tolist": lambda z: torch.tensor(z.reshape(1).tolist()[0] * 2),
    "tensor of a tensor": lambda z: torch.tensor([float(z), 1.0]).sum(),
    "as_tensor of a list": lambda z: torch.as_tensor([z, z]).sum(),
    "numpy": lambda z: torch.from_numpy(z.reshape(1).numpy() + 0.3).squeeze(),
    "numpy array": lambda z: torch.as_tensor(np.asarray(z) * np.ones(1)).squeeze(),
    "numpy view": lambda z: torch.from_numpy(z.numpy()) * 2,
    "numpy function": lambda z: torch.tensor(float(np.exp(z.numpy()))),
    "list index": lambda z: torch.tensor(ROWS[z.long()]),
    "range": count,
    "bool": branch,
    "comparison": lambda z: torch.tensor(1.7 if z > 0.5 else 0.3),
    "equal": lambda z: torch.tensor(1.7 if torch.equal(z, torch.ones(())) else 0.3),
    "allclose": lambda z: torch.tensor(1.7 if torch.allclose(z, torch.ones(())) else 0.3),
    "membership": lambda z: torch.tensor(1.7 if z in torch.ones(1) else 0.3),
    "while": loop,
    "iteration": lambda z: torch.tensor(sum(float(row) for row in z.reshape(1))),
    "format": lambda z: torch.tensor({"0": 0.3, "1": 1.7}[f"{z:.0f}"]),
    "string": lambda z: torch.tensor({True: 0.3, False: 1.7}["0" in str(z)[:9]]),
    "nonzero": lambda z: torch.tensor(float(len(z.reshape(1).nonzero()))),
    "where, one argument": lambda z: torch.tensor(float(len(torch.where(z.reshape(1))[0]))),
    "boolean mask": lambda z: torch.tensor(float(TABLE[(z > 0.5).expand(2)].numel())),
    "boolean mask's content": lambda z: TABLE[torch.stack([z > 0.5, z < 0.5])].sum(),
    "masked select": lambda z: torch.tensor(float(len(TABLE.masked_select(z > 0.5)))),
    "unique": lambda z: torch.tensor(float(len(torch.stack([z, torch.ones(())]).unique()))),
    "bincount": lambda z: torch.tensor(float(len(z.long().reshape(1).bincount()))),
    "one hot": lambda z: torch.tensor(float(F.one_hot(z.long()).numel())),
    "arange's length": lambda z: torch.tensor(float(len(torch.arange(z)))),
    "slice": lambda z: TABLE[: z.long() + 1].sum(),
    "slice's length": lambda z: torch.tensor(float(len(TABLE[z.long() :]))),
    "zeros' length": lambda z: torch.tensor(float(torch.zeros(z.long() + 1).numel())),
    "full's length": lambda z: torch.tensor(float(torch.full((int(z) + 1,), 1.0).numel())),
    "expand's length": lambda z: torch.tensor(float(torch.ones(()).expand(z.long() + 1).numel())),
    "repeat's length": lambda z: torch.tensor(float(torch.ones(1).repeat(z.long() + 1).numel())),
    "split": split_sizes,
    "dimension": lambda z: torch.tensor(float(len(torch.ones(1, 2).sum(z.long())))),
    "sizes of a permuted tensor": lambda z: torch.tensor(
        float(len(torch.ones(1, 2).transpose(0, z.long())))
    ),
    "nonzero as a tuple": lambda z: torch.tensor(
        float(len(z.reshape(1).nonzero(as_tuple=True)[0]))
    ),
    "unique with counts": lambda z: torch.tensor(
        float(len(torch.stack([z, torch.ones(())]).unique(return_counts=True)[1]))
    ),
    "memory shared with numpy": memory_shared_with_numpy,
    "memory shared with numpy earlier": memory_shared_earlier,
    "in place": inplace,
    "in place, through a view": inplace_through_a_view,
    "in place, seen by an older view": inplace_seen_by_an_older_view,
    "setitem": setitem,
    "setitem, index": setitem_index,
    "setitem, mask": setitem_mask,
    "out": out_argument,
    "data set": set_data,
    "no_grad": without_gradient,
    "autograd function": autograd_function,
    "module": linear,
    "module's parameters": parameters_of_a_network,
    "vmap": vmapped,
    "torch.func.grad": functional_gradient,
    "distribution": distribution_mean,
    "transform": transformed,
    "container": lambda z: functools.reduce(torch.add, {"a": [z, (z,)]}["a"][1]),
}


class Chain:
    """z1 reaches z2 in the guide and x in the model by the route alone; z2 reaches y."""

    def __init__(self, route: Callable[[Tensor], Tensor]) -> None:
        self.route = route
        self.parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3, 0.8, 0.5)]

    def guide(self):
        a, b, c, _ = self.parameters
        z1 = pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b + c * self.route(z1)))

    def model(self):
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        z2 = pyro.sample("z2", dist.Bernoulli(0.6))
        loc = self.parameters[3]
        pyro.sample("x", dist.Normal(loc * self.route(z1), 0.7), obs=torch.tensor(0.9))
        pyro.sample("y", dist.Normal(z2, 1.0), obs=torch.tensor(0.2))


def assert_unbiased(model, guide, parameters, draws=None):
    def all_draws():
        return draws() if draws else every_draw(z1=(), z2=())

    truth = gradient(elbo(model, guide, all_draws()), parameters)
    objective = dsvi.ScoreFunctionELBO()
    for _ in range(2):  # the first step and a later one
        found = expected_gradient(objective, model, guide, parameters, all_draws())
        torch.testing.assert_close(found, truth, atol=1e-10, rtol=0)
    assert truth[0].abs() > 1e-3


@pytest.mark.parametrize("route", ROUTES)
def test_any_route_carries_influence(route):
    chain = Chain(ROUTES[route])
    assert_unbiased(chain.model, chain.guide, chain.parameters)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_torchscript_function_carries_influence():
    @torch.jit.script
    def double(z):
        return 2 * z

    assert_unbiased(*parts(Chain(double)))


def parts(chain: Chain):
    return chain.model, chain.guide, chain.parameters


@pytest.mark.parametrize("route", ["arithmetic", "item", "slice", "nonzero"])
def test_k_sample_bounds_follow_the_same_routes(route):
    # Under a bound that is not additive, influence decides what stands under one logarithm.
    chain = Chain(ROUTES[route])
    objective = dsvi.IWAE(2, vectorize_particles=False)
    with pyro.poutine.block():
        _, executions = objective._step(chain.model, chain.guide, (), {})
    reach = {cost.site: cost.reach for cost in executions[0].run.costs if not cost.of_guide}
    assert reach["x"] & executions[0].run.latents["z1"].bit


def test_values_kept_on_self_by_the_guide_and_read_by_the_model():
    class Program:
        def __init__(self):
            self.parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]

        def guide(self):
            a, b = self.parameters
            self.kept = {"z1": [pyro.sample("z1", dist.Bernoulli(logits=a)) * 2]}
            self.count = int(pyro.sample("z2", dist.Bernoulli(logits=b)))

        def model(self):
            pyro.sample("z1", dist.Bernoulli(0.3))
            pyro.sample("z2", dist.Bernoulli(0.6))
            loc = self.kept["z1"][0]
            pyro.sample("x", dist.Normal(loc, 0.7), obs=torch.tensor(0.9))
            pyro.sample("y", dist.Normal(float(self.count), 1.0), obs=torch.tensor(0.2))

    program = Program()
    assert_unbiased(program.model, program.guide, program.parameters)


KEPT: dict[str, Tensor] = {}


def test_values_kept_in_a_global_and_in_a_closure():
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    drawn = None

    def guide():
        nonlocal drawn
        KEPT["z1"] = pyro.sample("z1", dist.Bernoulli(logits=a))
        drawn = pyro.sample("z2", dist.Bernoulli(logits=b))

    def model():
        pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Normal(KEPT["z1"], 0.7), obs=torch.tensor(0.9))
        pyro.sample("y", dist.Normal(2 * drawn, 1.0), obs=torch.tensor(0.2))

    assert_unbiased(model, guide, parameters)


def test_a_buffer_that_lives_longer_than_the_step():
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    memory = torch.zeros(2)

    def guide():
        memory[0] = pyro.sample("z1", dist.Bernoulli(logits=a))
        memory[1:].copy_(pyro.sample("z2", dist.Bernoulli(logits=b)))

    def model():
        pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Normal(memory.sum(), 0.7), obs=torch.tensor(0.9))

    assert_unbiased(model, guide, parameters)


def test_a_distribution_made_early_and_used_late():
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]

    def guide():
        z1 = pyro.sample("z1", dist.Bernoulli(logits=a))
        law = dist.Normal(2 * z1, 0.7)
        pyro.sample("z2", dist.Bernoulli(logits=b))
        guide.law = law

    def model():
        pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("x", guide.law, obs=torch.tensor(0.9))
        pyro.sample("y", guide.law.expand([2]).to_event(1), obs=torch.tensor([0.2, 0.1]))

    assert_unbiased(model, guide, parameters)


@pytest.mark.parametrize(
    "observe",
    [
        lambda z: pyro.sample("x", dist.Normal(0.3, 1.0), obs=2 * z),
        lambda z: pyro.factor("x", torch.tensor(1.7) if z > 0.5 else torch.tensor(0.3)),
        lambda z: pyro.factor("x", -((z - 0.3) ** 2)),
        lambda z: pyro.sample(
            "x", dist.Delta(torch.ones(()), log_density=2 * z), obs=torch.ones(())
        ),
        lambda z: pyro.poutine.scale(observe_nothing_new, scale=float(z) + 0.5)(),
        lambda z: pyro.poutine.scale(observe_nothing_new, scale=z + 0.5)(),
        lambda z: pyro.poutine.mask(observe_nothing_new, mask=z > 0.5)(),
        lambda z: pyro.poutine.mask(observe_nothing_new, mask=bool(z > 0.5))(),
        lambda z: pyro.sample("x", dist.Normal(0.3, 1.0).mask(z > 0.5), obs=torch.tensor(0.9)),
    ],
    ids=[
        "observed value",
        "factor, branch",
        "factor",
        "delta's log density",
        "scale, number",
        "scale, tensor",
        "mask, tensor",
        "mask, bool",
        "masked distribution",
    ],
)
def test_a_latent_that_reaches_a_cost_other_than_by_parameters(observe):
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]

    def guide():
        pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b))

    def model():
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("z2", dist.Bernoulli(0.6))
        observe(z1)

    assert_unbiased(model, guide, parameters)


def observe_nothing_new():
    pyro.sample("x", dist.Normal(0.3, 1.0), obs=torch.tensor(0.9))


@pytest.mark.parametrize("take", [bool, lambda z: z.item() > 0.5], ids=["bool", "item"])
def test_a_branch_that_decides_which_sites_there_are(take):
    a, b, c = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3, 0.2)]

    def guide():
        if take(pyro.sample("z1", dist.Bernoulli(logits=a))):
            pyro.sample("z2", dist.Bernoulli(logits=b))
        else:
            pyro.sample("z3", dist.Bernoulli(logits=c))

    def model():
        if take(pyro.sample("z1", dist.Bernoulli(0.3))):
            z2 = pyro.sample("z2", dist.Bernoulli(0.6))
            pyro.sample("x", dist.Normal(z2, 0.7), obs=torch.tensor(0.9))
        else:
            z3 = pyro.sample("z3", dist.Bernoulli(0.2))
            pyro.sample("y", dist.Normal(3 * z3, 0.7), obs=torch.tensor(0.9))

    assert_unbiased(model, guide, parameters, lambda: every_draw(z1=(), z2=(), z3=()))


def test_a_site_name_that_depends_on_a_draw():
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    rate = {"rate 0": 0.4, "rate 1": 1.9}

    def guide():
        pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b))

    def model():
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Exponential(rate[f"rate {z1:g}"]), obs=torch.tensor(0.9))

    assert_unbiased(model, guide, parameters)


# -- no site gets a cost that it cannot influence ------------------------------------------------


def score(logit: Tensor, z: Tensor) -> Tensor:
    return z - torch.sigmoid(logit)


def bernoulli(p, z: Tensor) -> Tensor:
    return dist.Bernoulli(p).log_prob(z)


@pytest.mark.parametrize("wrap", ["tensors", "stale tensors", "numbers before the draw"])
def test_independent_latents_keep_to_their_own_costs(wrap):
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    memory = {"loc": torch.tensor(0.0)}

    def guide():
        if wrap == "numbers before the draw":
            memory["number"] = float(memory["loc"]) + int(TABLE[1])
        pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b))

    def model():
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        z2 = pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("x", dist.Normal(z1, 0.7), obs=torch.tensor(0.9))
        stale = memory["loc"]
        pyro.sample("y", dist.Normal(z2 + 0.0 * stale, 1.0), obs=torch.tensor(0.2))
        if wrap == "stale tensors":
            memory["loc"] = z1 * z2

    objective = dsvi.ScoreFunctionELBO()
    for draw in [*every_draw(z1=(), z2=())] * 2:
        z1, z2 = draw["z1"], draw["z2"]
        found = gradient_at(objective, model, guide, parameters, draw)
        with torch.no_grad():
            x = dist.Normal(z1, 0.7).log_prob(torch.tensor(0.9))
            y = dist.Normal(z2, 1.0).log_prob(torch.tensor(0.2))
            q1, q2 = dist.Bernoulli(logits=a).log_prob(z1), dist.Bernoulli(logits=b).log_prob(z2)
            one = score(a, z1) * (bernoulli(0.3, z1) - q1 + x)
            two = score(b, z2) * (bernoulli(0.6, z2) - q2 + y)
        torch.testing.assert_close(found, torch.stack([one, two]), atol=1e-12, rtol=0)


def test_a_later_latent_is_not_answerable_for_what_was_settled_before():
    a, b, c = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3, 0.8)]

    def guide():
        z1 = pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b + c * z1))

    def model():
        z1 = pyro.sample("z1", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z1, 0.7), obs=torch.tensor(0.9))
        z2 = pyro.sample("z2", dist.Bernoulli(0.6))
        pyro.sample("y", dist.Normal(z2, 1.0), obs=torch.tensor(0.2))

    for draw in every_draw(z1=(), z2=()):
        z1, z2 = draw["z1"], draw["z2"]
        found = gradient_at(dsvi.ScoreFunctionELBO(), model, guide, parameters, draw)
        with torch.no_grad():
            x = dist.Normal(z1, 0.7).log_prob(torch.tensor(0.9))
            y = dist.Normal(z2, 1.0).log_prob(torch.tensor(0.2))
            q1, q2 = dist.Bernoulli(logits=a), dist.Bernoulli(logits=b + c * z1)
            below = bernoulli(0.6, z2) - q2.log_prob(z2) + y
            s2 = score(b + c * z1, z2)
            one = score(a, z1) * (bernoulli(0.3, z1) - q1.log_prob(z1) + x + below)
            expected = torch.stack([one, s2 * below, s2 * below * z1])
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_an_element_of_a_plate_keeps_to_its_own_costs():
    logits = torch.tensor([0.4, -0.3, 0.1], requires_grad=True)
    data = torch.tensor([0.9, 0.2, -0.4])

    def guide():
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    def model():
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=data)

    for draw in every_draw(z=(3,)):
        z = draw["z"]
        found = gradient_at(dsvi.ScoreFunctionELBO(), model, guide, [logits], draw)
        with torch.no_grad():
            own = bernoulli(0.3, z) - dist.Bernoulli(logits=logits).log_prob(z)
            own = own + dist.Normal(2 * z, 0.7).log_prob(data)
        torch.testing.assert_close(found, score(logits.detach(), z) * own, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", [1, 2], ids=["whole", "subsampled"])
def test_nested_plates_sum_what_lies_below_an_element(scale):
    logits = torch.tensor([0.4, -0.3], requires_grad=True)
    data = torch.tensor([[0.9, 0.2], [-0.4, 0.1], [0.5, 0.6]])
    rows = torch.arange(3)

    def plates():
        columns = pyro.plate("columns", 2 * scale, subsample=torch.arange(2), dim=-1)
        return columns, pyro.plate("rows", 3, subsample=rows, dim=-2)

    def guide():
        columns, _ = plates()
        with columns:
            pyro.sample("z", dist.Bernoulli(logits=logits))

    def model():
        columns, inner = plates()
        with columns:
            z = pyro.sample("z", dist.Bernoulli(0.3))
            with inner:
                pyro.sample("x", dist.Normal(2 * z, 0.7), obs=data)

    for draw in every_draw(z=(2,)):
        z = draw["z"]
        found = gradient_at(dsvi.ScoreFunctionELBO(), model, guide, [logits], draw)
        with torch.no_grad():
            own = bernoulli(0.3, z) - dist.Bernoulli(logits=logits).log_prob(z)
            own = scale * (own + dist.Normal(2 * z, 0.7).log_prob(data).sum(0))
        torch.testing.assert_close(found, score(logits.detach(), z) * own, atol=1e-12, rtol=0)


def test_the_first_step_gives_no_more_credit_than_the_later_ones():
    # Tensors that existed before are found before the first run, wherever the programs keep them.
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]
    shelf = {"scale": [torch.tensor(0.7)], "net": torch.nn.Linear(1, 1)}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("obs", torch.tensor(0.9))

        def forward(self, other=OTHER):
            z1 = pyro.sample("z1", dist.Bernoulli(0.3))
            z2 = pyro.sample("z2", dist.Bernoulli(0.6))
            pyro.sample("x", dist.Normal(z1, shelf["scale"][0]), obs=self.obs)
            pyro.sample("y", dist.Normal(z2 * TABLE[0], 1.0), obs=other)

    def guide():
        pyro.sample("z1", dist.Bernoulli(logits=a))
        pyro.sample("z2", dist.Bernoulli(logits=b))

    model, objective = Model(), dsvi.ScoreFunctionELBO()
    draw = {"z1": torch.tensor(1.0), "z2": torch.tensor(1.0)}
    first = gradient_at(objective, model, guide, parameters, draw)
    later = gradient_at(objective, model, guide, parameters, draw)
    assert torch.equal(first, later)
    with torch.no_grad():
        x = dist.Normal(1.0, 0.7).log_prob(torch.tensor(0.9))
        one = score(a, draw["z1"]) * (math.log(0.3) - F.logsigmoid(a) + x)
    torch.testing.assert_close(first[0], one, atol=1e-12, rtol=0)


# -- the mode by itself --------------------------------------------------------------------------


def drawn_in(influence: Influence, site: str) -> Tensor:
    value = torch.ones(())
    influence.drew(site, value, 0, True)
    return value


def test_bits_add_up_along_the_way():
    influence = Influence()
    with influence:
        z1, z2 = drawn_in(influence, "z1"), drawn_in(influence, "z2")
        both, one = z1 + z2, z1 * 2
        law = dist.Normal(one, 1.0)
    assert influence.of(one) == influence.bit("z1")
    assert influence.of(both) == influence.bit("z1") | influence.bit("z2")
    assert influence.of([one, {"k": (z2,)}]) == influence.of(both)
    assert influence.of(law) == influence.bit("z1")
    assert influence.of((1.0, "name", None, torch.Size([2]))) == 0
    assert influence.escaped == 0


def test_an_unknown_tensor_counts_as_reached_by_all_drawn_so_far():
    influence = Influence()
    with influence:
        z1 = drawn_in(influence, "z1")
        assert influence.pause()
        made_unseen = torch.zeros(3)
        influence.resume()
        drawn_in(influence, "z2")
    assert influence.of(z1) == influence.bit("z1")
    assert influence.of(made_unseen) == influence.bit("z1") | influence.bit("z2")
    assert influence.of(object()) == influence.bit("z1") | influence.bit("z2")


def test_tensors_of_an_earlier_run_carry_nothing():
    earlier = Influence()
    with earlier:
        stale = drawn_in(earlier, "z1") * 2
    later = Influence()
    with later:
        z2 = drawn_in(later, "z2")
        mixed = stale + z2
    assert later.of(stale) == 0
    assert later.of(mixed) == later.bit("z2")


def test_what_is_known_beforehand_carries_nothing():
    captured, defaulted, attribute = torch.zeros(2), torch.zeros(2), torch.zeros(2)

    class Holder:
        def __init__(self):
            self.deep = {"a": [attribute]}

        def run(self):
            return captured

    def program(x=defaulted):
        return captured

    roots = functools.partial(program), Holder().run, torch.nn.Linear(1, 1)
    know(*roots)
    influence = Influence()
    with influence:
        drawn_in(influence, "z1")
    for tensor in (captured, defaulted, attribute, TABLE, *roots[2].parameters()):
        know(lambda: TABLE)
        assert influence.of(tensor) == 0


def test_metadata_tells_nothing():
    influence = Influence()
    with influence:
        z = drawn_in(influence, "z").expand(3)
        _ = z.shape, z.dim(), len(z), z.dtype, z.device, z.is_floating_point(), z.numel()
    assert influence.escaped == 0


@pytest.mark.parametrize("leave", [bool, float, int, Tensor.item, Tensor.tolist, Tensor.numpy, str])
def test_leaving_torch_is_noticed(leave):
    influence = Influence()
    with influence:
        leave(drawn_in(influence, "z"))
    assert influence.escaped == influence.bit("z")
