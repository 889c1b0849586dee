"""From a run's costs, and what was followed from node to node, to the graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyro.distributions.unit import Unit

from pyro_dsvi.bounds import Bound
from pyro_dsvi.graph.bundle import bundles
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import EVERYTHING, Cost, Run, influences
from pyro_dsvi.graph.picture.graph import Edge, Graph
from pyro_dsvi.graph.picture.lineage import Lineage
from pyro_dsvi.graph.picture.node import Kind, Node, Role


@dataclass(frozen=True, eq=False)
class Program:
    """What the lineage found out about one program's sites.

    Attributes:
        sites: their messages.
        reach: bit set of what lies directly behind each site's log density.
        reach_of_law: the same without what lies behind it through the site's own value alone.
    """

    sites: Mapping[str, Any]
    reach: Mapping[str, int]
    reach_of_law: Mapping[str, int]


def link(
    run: Run, bound: Bound, lineage: Lineage, guide: Program, model: Program, reasons: Mapping
) -> Graph:
    """The graph of one run.

    Args:
        run: latents and costs, as the surrogate gets them.
        bound: the bound.
        lineage: what followed the programs from node to node.
        guide: the guide's sites.
        model: the model's sites.
        reasons: why each latent got its estimator, in words.
    """
    nodes = {name: _with_estimator(node, run, reasons) for name, node in lineage.nodes.items()}
    behind = {name: set(lineage.names(reach)) for name, reach in lineage.parents.items()}
    for name, latent in run.latents.items():
        if name not in nodes:  # drawn outside of Pyro, its density told by a factor
            plates = lineage.plates_of(guide.sites[name])
            node = Node(name, Kind.STOCHASTIC, Role.GUIDE, plates, latent.estimator)
            nodes[name] = replace(node, reason="drawn outside Pyro, its density is a factor")
            behind[name] = set(lineage.names(guide.reach[name]))
    costs = dict(zip(_names(run, nodes), run.costs, strict=True))
    for name, cost in costs.items():
        role = Role.GUIDE if cost.of_guide else Role.MODEL
        nodes[name] = Node(name, Kind.COST, role, _plates(cost, lineage, guide, model))
        behind[name] = _behind(cost, run, lineage, guide, model)
    edges = _shortest({(v, w) for w, parents in behind.items() for v in parents}, nodes)
    edges = _without_loose_ends(edges, nodes, run, lineage)
    credits = _credits(run, bound, costs)
    answering = {n: c for n, c in credits.items() if nodes[n].kind is Kind.STOCHASTIC}
    plates = lineage.plates.values()
    return Graph(_with_roles(nodes, edges), edges, answering, plates=plates, title=repr(bound))


def _with_estimator(node: Node, run: Run, reasons: Mapping[str, str]) -> Node:
    latent = run.latents.get(node.name)
    if latent is None or node.kind is not Kind.STOCHASTIC:
        return node
    return replace(node, estimator=latent.estimator, reason=reasons.get(node.name, ""))


def _names(run: Run, nodes: Mapping[str, Node]) -> list[str]:
    """A name for each cost, told apart from all others."""
    names: list[str] = []
    for cost in run.costs:
        name = _name(cost, run)
        while name in nodes or name in names:
            name += "'"
        names.append(name)
    return names


def _name(cost: Cost, run: Run) -> str:
    if cost.of_guide:
        return f"log q({cost.site})"
    if isinstance(cost.law, Unit):
        return cost.site
    if not _is_closed_form(cost):
        return f"log p({cost.site})"
    latent = run.latents.get(cost.site)
    if latent is not None and cost.law is latent.q:
        return f"H(q({cost.site}))"
    return f"closed form of {cost.site}"


def _is_closed_form(cost: Cost) -> bool:
    return cost.drawn is None and not cost.factors


def _plates(cost: Cost, lineage: Lineage, guide: Program, model: Program) -> tuple[str, ...]:
    if cost.factors:
        return tuple(sorted(cost.plates))
    program = guide if cost.of_guide or cost.site not in model.sites else model
    return lineage.plates_of(program.sites[cost.site])


def _behind(cost: Cost, run: Run, lineage: Lineage, guide: Program, model: Program) -> set[str]:
    """What lies directly behind a cost."""
    if cost.factors:
        reach = _union(model.reach, cost.factors)
    elif _is_closed_form(cost):
        reach = _union(model.reach_of_law, [cost.site]) | _union(guide.reach_of_law, [cost.site])
    else:
        reach = (guide if cost.of_guide else model).reach[cost.site]
    names = _drawn(set(lineage.names(reach)), cost, run, lineage, set())
    if cost.reach == EVERYTHING:
        names.update(name for name in run.latents)
    return names


def _union(reach: Mapping[str, int], sites: Iterable[str]) -> int:
    found = 0
    for site in sites:
        found |= reach.get(site, 0)
    return found


def _drawn(names: set[str], cost: Cost, run: Run, lineage: Lineage, seen: set[str]) -> set[str]:
    """The names, those of draws that the surrogate integrates out replaced by what is behind."""
    found: set[str] = set()
    for name in names - seen:
        latent = run.latents.get(name)
        if latent is None or influences(latent.bit, cost.reach):
            found.add(name)
            continue
        behind = set(lineage.names(lineage.parents[name]))
        found |= _drawn(behind, cost, run, lineage, seen | {name})
    return found


def _shortest(edges: set[Edge], nodes: Mapping[str, Node]) -> set[Edge]:
    """Without the edges beside which a path of deterministic nodes leads to the same node.

    Neither relation loses anything by that.
    """
    children: dict[str, set[str]] = {}
    for v, w in edges:
        children.setdefault(v, set()).add(w)

    def beyond(start: str) -> set[str]:
        """What deterministic nodes behind a node's children lead to."""
        pending = [w for w in children.get(start, ()) if nodes[w].kind is Kind.DETERMINISTIC]
        found: set[str] = set()
        seen = set(pending)
        while pending:
            for w in children.get(pending.pop(), ()):
                found.add(w)
                if nodes[w].kind is Kind.DETERMINISTIC and w not in seen:
                    seen.add(w)
                    pending.append(w)
        return found

    return {(v, w) for v in {v for v, _ in edges} for w in children[v] - beyond(v)}


def _without_loose_ends(
    edges: set[Edge], nodes: dict[str, Node], run: Run, lineage: Lineage
) -> set[Edge]:
    """Drop, in place, what leads nowhere; what ``pyro.deterministic`` has named stays."""
    while True:
        used = {v for v, _ in edges}
        gone = {
            name
            for name, node in nodes.items()
            if (name in lineage.draws and name not in run.latents)  # summed out of the model
            or (name not in used and (node.kind is Kind.INPUT or name in lineage.arguments))
        }
        if not gone:
            return edges
        for name in gone:
            del nodes[name]
        edges = {(v, w) for v, w in edges if v not in gone and w not in gone}


def _with_roles(nodes: Mapping[str, Node], edges: set[Edge]) -> list[Node]:
    """The nodes, each parameter with the programs that use it."""
    users: dict[str, set[Role]] = {}
    for v, w in edges:
        users.setdefault(v, set()).add(nodes[w].role)
    out = []
    for name, node in nodes.items():
        if node.kind is Kind.INPUT and node.role is not Role.DATA:
            roles = users.get(name, set())
            role = roles.pop() if len(roles) == 1 else Role.BOTH
            node = replace(node, role=role)
        out.append(node)
    order = list(Kind)
    return sorted(out, key=lambda node: order.index(node.kind))


def _credits(run: Run, bound: Bound, costs: Mapping[str, Cost]) -> dict[str, list[str]]:
    """The costs that each latent answers for, as the surrogate has it."""
    if bound.additive:
        return {
            site: [name for name, c in costs.items() if influences(latent.bit, c.reach)]
            for site, latent in run.latents.items()
        }
    groups, _ = bundles([run], Layout.of([run]))
    return {
        site: [
            name
            for group in groups
            if site in group.latents
            for name, cost in costs.items()
            if cost.reach & group.reach
        ]
        for site in run.latents
    }
