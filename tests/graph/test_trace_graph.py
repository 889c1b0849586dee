"""The graph says of influence and credit what the surrogate makes of them.

Against hand-written truth on Schulman et al.'s (2015) five basic graphs and on programs of every
kind; and against the credits that a step of the objective really hands out, summed from Pyro's own
log densities over the costs that the graph names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param, poutine
from pyro.infer import autoguide
from pyro.poutine.util import site_is_subsample
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument, UnknownNode
from pyro_dsvi.graph import Graph, Kind, Role, trace_graph
from pyro_dsvi.strategy import Everywhere
from tests.scenarios import SCENARIOS
from tests.test_pyro_programs import AUTOGUIDES, PROGRAMS, hierarchical_model


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


def names(graph: Graph, kind: Kind) -> set[str]:
    return {node.name for node in graph.of_kind(kind)}


# -- the five basic graphs -------------------------------------------------------------------


def at(name: str, loc: Any) -> Tensor:
    return pyro.sample(name, dist.Normal(loc, 1.0))


def silently(program: Callable[[], Any]) -> Callable[[], Any]:
    """The program, its log densities left out, so that factors are the only costs."""
    return poutine.mask(program, mask=False)


def theta() -> Tensor:
    return param("θ", torch.tensor(0.3))


def first_guide():
    at("y", theta().sin())


def first_model():
    y = at("y", 0.0)
    pyro.factor("f", y.square())


def second_guide():
    at("x", theta())


def second_model():
    y = pyro.deterministic("y", at("x", 0.0).sin())
    pyro.factor("f", y.square())


def third_guide():
    at("y", at("x", theta()))


def third_model():
    at("x", 0.0)
    pyro.factor("f", at("y", 0.0).square())


def fourth_guide():
    at("x", theta())


def fourth_model():
    y = pyro.deterministic("y", theta().sin())
    pyro.factor("f", at("x", 0.0) * y)


def fifth_guide():
    x1 = at("x1", theta())
    at("x2", theta() + x1)


def fifth_model():
    pyro.factor("f1", at("x1", 0.0).square())
    pyro.factor("f2", at("x2", 0.0).square())


def costs_apart(program: Callable[[], Any]) -> Callable[[], Any]:
    """The program with its draws' own densities left out, but not its factors."""

    def quiet(site):
        return isinstance(site["fn"], dist.Normal)

    class Quiet(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if quiet(msg):
                msg["mask"] = False

    def quietly():
        with Quiet():
            program()

    return quietly


# What lies directly behind each node: DEPS, and the computed values on the way.
BASIC = {
    "θ, computed x, drawn y, cost": (
        (first_model, first_guide),
        {("θ", "q(y).loc"), ("q(y).loc", "y"), ("y", "f")},
        {"y": {"f"}},
        {"f": {"y"}, "y": {"θ"}},
    ),
    "θ, drawn x, computed y, cost": (
        (second_model, second_guide),
        {("θ", "x"), ("x", "y"), ("y", "f")},
        {"x": {"f"}},
        {"f": {"x"}, "y": {"x"}, "x": {"θ"}},
    ),
    "θ, drawn x, drawn y, cost": (
        (third_model, third_guide),
        {("θ", "x"), ("x", "y"), ("y", "f")},
        {"x": {"f"}, "y": {"f"}},
        {"f": {"y"}, "y": {"x"}, "x": {"θ"}},
    ),
    "a draw and a computed value meet": (
        (fourth_model, fourth_guide),
        {("θ", "x"), ("θ", "y"), ("x", "f"), ("y", "f")},
        {"x": {"f"}},
        {"f": {"x", "θ"}, "x": {"θ"}, "y": {"θ"}},
    ),
    "two draws in a row, a cost each": (
        (fifth_model, fifth_guide),
        {("θ", "x1"), ("θ", "q(x2).loc"), ("x1", "q(x2).loc"), ("q(x2).loc", "x2")}
        | {("x1", "f1"), ("x2", "f2")},
        {"x1": {"f1", "f2"}, "x2": {"f2"}},
        {"f1": {"x1"}, "f2": {"x2"}, "x1": {"θ"}, "x2": {"θ", "x1"}},
    ),
}


@pytest.mark.parametrize("case", BASIC)
def test_the_five_basic_graphs(case):
    (model, guide), edges, credits, deps = BASIC[case]
    graph = trace_graph(costs_apart(model), silently(guide))
    assert set(graph.edges) == edges
    assert {site: set(graph.downstream_costs(site)) for site in credits} == credits
    assert {name: set(graph.deps(name)) for name in deps} == deps


def test_a_draw_cuts_deterministic_influence_and_no_other():
    graph = trace_graph(costs_apart(third_model), silently(third_guide))
    assert graph.influences("x", "f")
    assert graph.influences("θ", "f")
    assert not graph.influences_deterministically("x", "f")
    assert not graph.influences_deterministically("θ", "y")
    assert graph.influences_deterministically("x", "y")
    assert graph.influences_deterministically("y", "f")
    assert not graph.influences("f", "y")
    assert graph.upstream("f") == ("θ", "x", "y")
    assert graph.downstream("θ") == ("x", "y", "f")


def test_a_computed_value_does_not_cut_it():
    graph = trace_graph(costs_apart(second_model), silently(second_guide))
    assert graph.influences_deterministically("x", "f")
    assert graph.influences_deterministically("y", "f")
    assert not graph.influences_deterministically("θ", "f")


# -- what the surrogate really uses ----------------------------------------------------------


@dataclass(frozen=True)
class Overheard(dsvi.ScoreFunction):
    """The score function, writing down the credit that each site is given."""

    elementwise: ClassVar[bool] = False
    heard: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def surrogate(self, visit):
        self.heard[visit.site] = visit.credit.detach().clone()
        return super().surrogate(visit)


def set_up(scenario) -> None:
    for name, value in scenario.parameters().items():
        param(name, value.detach().clone())


def played(scenario) -> dict[str, Any]:
    """The messages of a run by Pyro itself, of guide and model, by the names of their costs."""
    # Pyro's trace takes no parameter with the name of a site.
    guide = poutine.trace(poutine.block(scenario.guide, hide_types=["param"])).get_trace()
    model = poutine.replay(scenario.model, guide)
    model = poutine.trace(poutine.block(model, hide_types=["param"])).get_trace()
    out = {}
    for letter, trace in (("q", guide), ("p", model)):
        trace.compute_log_prob()
        for name, msg in trace.nodes.items():
            if msg["type"] == "sample" and not site_is_subsample(msg):
                out[f"log {letter}({name})"] = msg
    return out


def summed(costs: dict[str, Any], chosen: tuple[str, ...], site: Any) -> Tensor:
    """The sum of the chosen costs, per element of a site's plates."""
    total = torch.zeros(())
    kept = {frame.dim for frame in site["cond_indep_stack"]}
    for name in chosen:
        value = costs[name]["log_prob"]
        for dim in range(-value.dim(), 0):
            value = value if dim in kept else value.sum(dim, keepdim=True)
        total = total + (value if name.startswith("log p") else -value)
    return total


@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
@pytest.mark.parametrize("name", SCENARIOS)
def test_credits_are_those_of_a_step(name, bound):
    scenario = SCENARIOS[name]
    set_up(scenario)
    estimator = Overheard()
    objective = dsvi.Objective(bound, default=Everywhere(estimator))
    pyro.set_rng_seed(7)
    objective.loss_and_grads(scenario.model, scenario.guide)
    pyro.set_rng_seed(7)
    costs = played(scenario)
    pyro.set_rng_seed(7)
    graph = trace_graph(scenario.model, scenario.guide, objective=objective)

    assert set(graph.estimators) == set(estimator.heard) != set()
    assert names(graph, Kind.COST) == set(costs)
    for site, credit in estimator.heard.items():
        chosen = graph.downstream_costs(site)
        if bound.additive:
            expected = summed(costs, chosen, costs[f"log q({site})"])
        else:  # the terms stand under one bound, per element of the plates that all share
            shared = min((costs[c] for c in chosen), key=lambda m: len(m["cond_indep_stack"]))
            expected = summed(costs, chosen, shared) / common_factor(chosen, costs)
        assert torch.allclose(credit.squeeze(), expected.squeeze(), rtol=0, atol=1e-12)


def common_factor(chosen: tuple[str, ...], costs: dict[str, Any]) -> float:
    """A scale that all terms under a bound have in common stands outside of it."""
    scales = {float(costs[name]["scale"]) for name in chosen}
    return scales.pop() if len(scales) == 1 else 1.0


@pytest.mark.parametrize("name", SCENARIOS)
def test_influence_step_by_step_is_influence(name):
    """All paths from node to node together are the relation that the surrogate uses."""
    scenario = SCENARIOS[name]
    set_up(scenario)
    every_path_is_influence(trace_graph(scenario.model, scenario.guide))


def every_path_is_influence(graph: Graph) -> None:
    for site in names(graph, Kind.STOCHASTIC):
        reached = {c for c in graph.downstream(site) if graph[c].kind is Kind.COST}
        assert reached == set(graph.downstream_costs(site))


@pytest.mark.parametrize("program", PROGRAMS)
def test_in_ordinary_programs(program):
    graph = trace_graph(*program())
    every_path_is_influence(graph)
    assert not any(name.startswith("leaf ") for name in graph.nodes)
    used = {name.removesuffix(" (parameter)") for name in names(graph, Kind.INPUT)}
    assert set(pyro.get_param_store()) <= used


@pytest.mark.parametrize("name", AUTOGUIDES)
@pytest.mark.parametrize("analytic_kl", [False, True])
def test_in_automatic_guides(name, analytic_kl):
    guide = AUTOGUIDES[name](hierarchical_model)
    objective = dsvi.MixedELBO(analytic_kl=analytic_kl)
    every_path_is_influence(trace_graph(hierarchical_model, guide, objective=objective))


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_disturbed(name):
    scenario = SCENARIOS[name]
    set_up(scenario)
    store = pyro.get_param_store()
    for leaf in dict(store.named_parameters()).values():
        leaf.grad = torch.ones_like(leaf)
    before = {n: v.clone() for n, v in store.items()}, torch.get_rng_state()
    trace_graph(scenario.model, scenario.guide)
    assert store.keys() == before[0].keys()
    assert all(torch.equal(store[n], v) for n, v in before[0].items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all((leaf.grad == 1).all() for _, leaf in store.named_parameters())


# -- ordinary programs -----------------------------------------------------------------------


class VAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(3, 4)
        self.decoder = torch.nn.Linear(2, 3)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", 10, 5) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[i])

    def guide(self, x):
        with pyro.plate("data", 10, 5) as i:
            loc, log_scale = self.encoder(x[i]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_an_amortised_guide():
    vae = VAE()
    graph = trace_graph(vae.model, vae.guide, torch.randn(10, 3))
    weights = {"encoder.weight", "encoder.bias"}
    assert set(graph.deps("z")) == {"x", *weights}
    assert set(graph.upstream("q(z).scale")) == {"x", *weights}
    assert set(graph.deps("log p(x)")) == {"x", "z", "decoder.weight", "decoder.bias"}
    assert graph["x"].role is Role.DATA
    assert graph["encoder.weight"].role is Role.GUIDE
    assert graph["decoder.bias"].role is Role.MODEL
    assert graph["p(x).loc"].plates == graph["z"].plates == ("data",)
    assert graph["x"].plates == ()
    assert str(graph.plates["data"]) == "data: 5 of 10"


def test_parameters_of_a_module_that_no_one_registered():
    net, offset = torch.nn.Linear(1, 1), torch.tensor(0.1, requires_grad=True)

    def model():
        z = at("z", 0.0)
        pyro.sample(
            "x", dist.Normal(net(z.reshape(1)) + offset, 1.0).to_event(1), obs=torch.ones(1)
        )

    def guide():
        fresh = torch.nn.Linear(1, 1)
        pyro.module("fresh", fresh, update_module_params=True)
        at("z", fresh(torch.ones(1)).squeeze())

    graph = trace_graph(model, guide)
    assert set(graph.deps("log p(x)")) == {"net.weight", "net.bias", "offset", "z", "x"}
    assert set(graph.deps("z")) == {"fresh.weight", "fresh.bias"}


def hierarchical(y):
    mu, tau = at("mu", 0.0), pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("groups", 3, dim=-2):
        group = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("members", 4, dim=-1):
            pyro.sample("y", dist.Normal(group, 1.0), obs=y)
    pyro.deterministic("ratio", mu / tau)
    pyro.factor("bonus", -mu.square())


POINT_MASSES = {
    "AutoNormal": {"mu_unconstrained"},
    "AutoDiagonalNormal": {"_AutoDiagonalNormal_latent"},
    "AutoMultivariateNormal": {"_AutoMultivariateNormal_latent"},
    "AutoDelta": {"AutoDelta.mu"},
}


@pytest.mark.parametrize("kind", POINT_MASSES)
def test_autoguides(kind):
    """A point mass is computed, not drawn: what was drawn is the value behind it."""
    guide = getattr(autoguide, kind)(hierarchical)
    graph = trace_graph(hierarchical, guide, torch.randn(3, 4))
    assert graph["mu"].kind is Kind.DETERMINISTIC
    assert set(graph.deps("mu")) == POINT_MASSES[kind]
    assert graph.upstream("log p(theta)") != graph.deps("log p(theta)") or kind == "AutoDelta"
    assert {"mu", "tau", "theta"} <= set(graph.upstream("log p(theta)"))
    assert graph["ratio"].kind is Kind.DETERMINISTIC
    assert graph.downstream("ratio") == ()
    assert {"mu", "tau"} <= set(graph.upstream("ratio"))
    assert set(graph.deps("bonus")) == POINT_MASSES[kind]
    assert graph["log p(y)"].plates == ("groups", "members")
    assert graph["theta"].plates == ("groups",)


def test_a_closed_form_has_what_its_draw_was_drawn_from():
    guide = autoguide.AutoNormal(hierarchical)
    objective = dsvi.MixedELBO(analytic_kl=True)
    graph = trace_graph(hierarchical, guide, torch.randn(3, 4), objective=objective)
    parameters = {"AutoNormal.locs.theta", "AutoNormal.scales.theta"}
    above = {"mu_unconstrained", "tau_unconstrained"}
    assert set(graph.deps("closed form of theta")) == parameters | above
    assert graph.downstream_costs("theta_unconstrained") == ("log p(y)",)


def mixture():
    p = pyro.sample("p", dist.Beta(1.0, 2.0))
    with pyro.plate("data", 3):
        k = pyro.sample("k", dist.Bernoulli(p), infer={"enumerate": "parallel"})
        loc = k * param("gap", torch.tensor(2.0))
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor([0.1, 2.0, 1.0]))


def of_the_weight():
    return pyro.sample("p", dist.Beta(param("a", torch.tensor(1.0)).exp(), 2.0))


def of_both():
    p = of_the_weight()
    with pyro.plate("data", 3):
        logits = param("eta", torch.zeros(3)) + p
        pyro.sample("k", dist.Bernoulli(logits=logits), infer={"enumerate": "parallel"})


def test_a_site_summed_out_of_the_model_is_no_node():
    graph = trace_graph(mixture, of_the_weight)
    assert "k" not in graph
    assert set(graph.deps("log p(k, x)")) == {"p", "gap", "x"}
    assert set(graph.downstream_costs("p")) == {"log q(p)", "log p(p)", "log p(k, x)"}


def test_an_enumerated_site_is_a_draw_whose_probabilities_count():
    graph = trace_graph(mixture, of_both)
    assert set(graph.deps("log p(x)")) == {"k", "gap", "x"}
    assert "log p(x)" in graph.downstream_costs("p")  # through k's probabilities alone
    assert graph.influences("p", "log p(x)")
    assert isinstance(graph.estimators["k"], dsvi.Enumerate)
    assert graph["p(x).loc"].plates == ("data",)


def test_a_site_marginalised_by_its_estimator_is_no_node():
    def guide():
        of_the_weight()
        with pyro.plate("data", 3):
            pyro.sample("k", dist.Bernoulli(logits=param("eta", torch.zeros(3))))

    objective = dsvi.MixedELBO(estimators={"k": dsvi.Marginalize()})
    graph = trace_graph(mixture, guide, objective=objective)
    assert "k" not in graph
    assert "eta" not in graph
    assert set(graph.deps("log p(k, x)")) == {"p", "gap", "x"}


def test_a_branch_on_a_draw_is_influence():
    def model():
        b = pyro.sample("b", dist.Bernoulli(0.5))
        loc = 1.0 if b.item() else -1.0
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(0.3))

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=param("eta", torch.tensor(0.0))))

    assert set(trace_graph(model, guide).deps("log p(x)")) == {"b", "x"}


def test_a_draw_made_outside_pyro_reaches_all_that_comes_after():
    def guide():
        at("z", param("loc", torch.tensor(0.0)))
        pyro.factor("u", param("w", torch.tensor(0.2)) * torch.randn(()), has_rsample=False)

    def model():
        pyro.sample("x", dist.Normal(at("z", 0.0), 1.0), obs=torch.tensor(0.3))

    graph = trace_graph(model, guide)
    assert graph["u"].kind is Kind.STOCHASTIC
    assert "log p(x)" in graph.downstream_costs("u")
    assert graph.influences("u", "log p(x)")
    assert graph.deps("u") == ("w",)


def test_several_sites_may_share_a_computed_value_and_a_name():
    def model(z):
        loc = pyro.sample("z", dist.Normal(0.0, 1.0)).exp()
        pyro.sample("x", dist.Normal(loc, 1.0), obs=z)
        pyro.sample("y", dist.Normal(loc, 1.0), obs=z * 2)

    def guide(z):
        at("z", param("z", torch.tensor(0.0)))

    graph = trace_graph(model, guide, torch.tensor(0.4))
    assert set(graph.deps("z")) == {"z (parameter)"}
    assert set(graph.deps("log p(x)")) == set(graph.deps("log p(y)")) == {"z", "z (data)"}
    assert graph.downstream("p(x).loc") == ("log p(x)", "log p(y)")
    assert "p(y).loc" not in graph


def test_what_a_distribution_computes_for_itself_makes_no_second_way():
    """A Cholesky factor is computed from the covariance, which is a node already."""

    def model():
        covariance = at("z", 0.0).exp() * torch.eye(2)
        law = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=covariance)
        pyro.sample("x", law, obs=torch.ones(2))

    def guide():
        at("z", param("loc", torch.tensor(0.0)))

    graph = trace_graph(model, guide)
    into = {v for v, w in graph.edges if w == "log p(x)"}
    assert into == {"x", "p(x).covariance_matrix"}


def test_arguments_that_are_broadcast_together_stay_apart():
    def model():
        scale = 1.0 + pyro.sample("b", dist.Bernoulli(0.5))
        law = dist.Normal(0.3, scale)
        pyro.sample("x", law, obs=torch.tensor(0.1))
        pyro.sample("y", dist.Normal(law.mean, 1.0), obs=torch.tensor(0.1))

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=param("eta", torch.tensor(0.1))))

    costs = set(trace_graph(model, guide).downstream_costs("b"))
    assert costs == {"log q(b)", "log p(b)", "log p(x)"}


def test_a_part_of_a_draw_is_the_draw():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[1:].reshape(2, 1), 1.0).to_event(2), obs=torch.ones(2, 1))

    def guide():
        pyro.sample("z", dist.Normal(param("loc", torch.zeros(3)), 1.0).to_event(1))

    graph = trace_graph(model, guide)
    assert {v for v, w in graph.edges if w == "log p(x)"} == {"x", "z"}
    assert graph.of_kind(Kind.DETERMINISTIC) == ()


def test_a_single_operation_between_boolean_numbers_tells_nothing():
    """Torch's check of a simplex combines two of them; a draw behind it stays where it is."""

    def model():
        a = pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("k", dist.OneHotCategorical(logits=torch.zeros(2)))
        pyro.sample("x", dist.Normal(a, 1.0), obs=torch.tensor(0.3))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))

    def guide():
        a = pyro.sample("a", dist.Bernoulli(logits=param("eta", torch.tensor(0.1))))
        pyro.sample("k", dist.OneHotCategorical(logits=param("table", torch.zeros(2)) * a))

    assert "log p(y)" not in trace_graph(model, guide).downstream_costs("a")


# -- questions that cannot be answered -------------------------------------------------------


@pytest.fixture
def small() -> Graph:
    return trace_graph(fifth_model, fifth_guide)


def test_short_names(small):
    assert small["x2.loc"] is small["q(x2).loc"]
    assert "x2.loc" in small
    assert "nothing" not in small


def test_an_unknown_name_is_refused_with_a_hint(small):
    for ask in (small.upstream, small.downstream, small.deps, small.downstream_costs):
        with pytest.raises(UnknownNode, match=r"no node 'log q\(x3\)'; did you mean 'log q\(x"):
            ask("log q(x3)")
    with pytest.raises(KeyError):
        small["elsewhere"]


def test_what_is_not_drawn_answers_for_nothing(small):
    with pytest.raises(UnknownNode, match=r"'f1' is no draw .*\['x1', 'x2'\]"):
        small.downstream_costs("f1")


def test_a_strange_objective_is_refused():
    with pytest.raises(InvalidArgument, match="expected an objective of this package"):
        trace_graph(fifth_model, fifth_guide, objective=pyro.infer.Trace_ELBO())


def test_the_estimators_are_the_objectives():
    objective = dsvi.MixedELBO(num_particles=2, estimators={"x1": dsvi.ScoreFunction()})
    graph = trace_graph(fifth_model, fifth_guide, objective=objective)
    assert graph.estimators == {"x1": dsvi.ScoreFunction(), "x2": dsvi.Pathwise()}
    assert graph["x1"].reason == "asked for by name in the objective"
    assert "x1  from θ  by ScoreFunction" in str(graph)
    assert repr(graph).startswith("<Graph: 1 input, 1 deterministic, 2 stochastic, ")
