r"""The exact gradient of a bound, by visiting every joint draw.

.. math:: \nabla \sum_{z_1 \dots z_K} q(z_1) \cdots q(z_K) \, B(\ell_1, \dots, \ell_K)

The programs are run once at each joint draw of one particle, branch by branch, so that sites may
come and go with the values before them.  The bound's value at every K of these runs comes from
their log weights; probabilities and log weights alike are differentiated.  Nothing of any estimator
is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dsvi.bounds import Bound
from pyro_dsvi.diagnostics.gradient import Gradient, rounding
from pyro_dsvi.diagnostics.handlers import Explore
from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.reference import Draw, Found, Reference
from pyro_dsvi.diagnostics.undisturbed import random_state, same_random_state
from pyro_dsvi.errors import InvalidArgument, NoReference
from pyro_dsvi.estimators import Pathwise
from pyro_dsvi.estimators.law import sampling_law
from pyro_dsvi.graph.bundle import bundles
from pyro_dsvi.graph.layout import Layout
from pyro_dsvi.graph.nodes import Run
from pyro_dsvi.graph.preexisting import know
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.strategy import Choice

_HOPELESS = 64  # times as many draws as allowed, if all paths were as long as the first
_FEWER = 4  # nodes to leave out, to see by how much quadrature may be off


@dataclass(frozen=True)
class Enumeration(Reference):
    """A reference that leaves nothing to chance.

    Discrete sites of finite support are summed over.  A Poisson, say, is cut off where rounding
    would swallow the rest; a Normal site gets a quadrature, and the change from a few nodes fewer
    counts as the reference's standard error.

    Args:
        max_draws: the most joint draws of one particle.
        max_joint_draws: the most joint draws of all particles of a K-sample bound.
        nodes: nodes for each element of a Normal site; 0 to have none.

    Raises:
        InvalidArgument: if an argument cannot work.

    Example:
        >>> import pyro_dsvi as dsvi
        >>> reference = dsvi.diagnostics.Enumeration(max_draws=10_000)
    """

    max_draws: int = 2048
    max_joint_draws: int = 200_000
    nodes: int = 16

    def __post_init__(self) -> None:
        if min(self.max_draws, self.max_joint_draws) < 1:
            raise InvalidArgument("Enumeration: at least one draw must be allowed")
        if self.nodes and self.nodes <= _FEWER:
            raise InvalidArgument(
                f"Enumeration: nodes must be 0 or more than {_FEWER}, got {self.nodes}"
            )

    def find(self, programs: Programs, bound: Bound, num_particles: int, tested: Any) -> Found:
        draws, exact = self.every_draw(programs, bound, num_particles, nodes=self.nodes)
        terms = expectation(draws, bound, num_particles)
        mean = _differentiate(terms.sum(), programs)
        error = {name: torch.zeros_like(g) for name, g in mean.items()}
        if not exact and self.nodes:
            fewer = self.nodes - _FEWER
            rough, _ = self.every_draw(programs, bound, num_particles, nodes=fewer)
            other = _differentiate(expectation(rough, bound, num_particles).sum(), programs)
            error = {name: (g - other[name]).abs() for name, g in mean.items()}
        within = _rounding(terms, mean, programs, _eps(draws))
        return Found(Gradient(mean, error, within, _told(draws, exact), exact), draws)

    def every_draw(
        self, programs: Programs, bound: Bound, num_particles: int, *, nodes: int
    ) -> tuple[list[Draw], bool]:
        """Every joint draw of one particle that has positive probability, depth first.

        Returns:
            The draws, and whether these are all, without nodes or a cut-off.

        Raises:
            NoReference: if they are not finite in number, or too many.
        """
        executor = _executor(programs, bound)
        draws: list[Draw] = []
        path: list[int] | None = []
        exact = True
        while path is not None:
            draw, explore = _run(executor, programs, path, nodes)
            exact = exact and explore.exact
            if float(draw.log_q.detach()) > -torch.inf:
                draws.append(draw)
            self._refuse_too_many(len(draws), num_particles if not bound.additive else 1)
            if _product(count for _, count in explore.taken) > _HOPELESS * self.max_draws:
                raise NoReference(f"far more than {self.max_draws} joint draws of a particle")
            path = _next(explore.taken)
        _check_total(draws)
        return draws, exact

    def _refuse_too_many(self, draws: int, num_particles: int) -> None:
        if draws > self.max_draws:
            raise NoReference(f"more than {self.max_draws} joint draws of a particle")
        if draws**num_particles > self.max_joint_draws:
            raise NoReference(
                f"more than {self.max_joint_draws} joint draws of {num_particles} particles"
            )


def _run(
    executor: Executor, programs: Programs, path: Sequence[int], nodes: int
) -> tuple[Draw, Explore]:
    """Run the programs along the branches prescribed."""
    for _ in range(2):  # what a program draws when it sets itself up, it draws once
        explore = Explore(path, nodes)
        before = random_state()
        with programs.watch() as watched, explore:
            execution = executor.one()
        if same_random_state(before, random_state()):
            log_q = _log_probability(execution, explore)
            programs.meet(watched, _everything(execution.run, log_q))
            return Draw(explore.values, log_q, execution.run), explore
    raise NoReference("the programs draw outside their sample sites")


def expectation(draws: Sequence[Draw], bound: Bound, num_particles: int) -> Tensor:
    """The expected bound, joint draw by joint draw: in nats, to be summed, differentiable.

    Args:
        draws: all joint draws of one particle.
        bound: the bound.
        num_particles: K.

    Returns:
        Probability times bound, shape ``[joint draws of the particles]``.
    """
    # An additive bound is a mean over particles that are alike.
    count = 1 if bound.additive else num_particles
    kinds = _by_structure(draws)
    terms = []
    for chosen in product(range(len(kinds)), repeat=count):
        present = sorted(set(chosen))
        members = [draw for kind in present for draw in kinds[kind]]
        start = {k: sum(len(kinds[other]) for other in present if other < k) for k in present}
        each = [torch.arange(start[k], start[k] + len(kinds[k])) for k in chosen]
        index = torch.cartesian_prod(*each).reshape(-1, count)
        terms.append(_expected(members, bound, index.T))
    return torch.cat(terms)


def _expected(draws: Sequence[Draw], bound: Bound, index: Tensor) -> Tensor:
    """Probability times bound at each of the joint draws ``index`` ``[K, R]``."""
    runs = [draw.run for draw in draws]
    log_q = torch.stack([draw.log_q for draw in draws])
    index = index.to(log_q.device)
    probability = log_q[index].sum(0).exp()
    groups, constant = bundles(runs, Layout.of(runs))
    total = torch.zeros_like(probability) if constant is None else constant.expand(index.shape[1])
    for group in groups:
        value = bound.value(group.log_w[index])
        total = total + group.weight * value.reshape(len(value), -1).sum(-1)
    return probability * total


def _by_structure(draws: Sequence[Draw]) -> list[list[Draw]]:
    """Draws whose runs have the same terms in the same plates, reached by the same latents."""
    kinds: dict[Any, list[Draw]] = {}
    for draw in draws:
        run = draw.run
        terms = tuple((c.site, c.of_guide, c.plates, c.reach, _number(c.scale)) for c in run.costs)
        plates = tuple(sorted((p.name, p.dim, p.scale) for p in run.plates.values()))
        kinds.setdefault((terms, plates), []).append(draw)
    return list(kinds.values())


def _number(scale: Any) -> float | None:
    return None if isinstance(scale, Tensor) else scale


def _executor(programs: Programs, bound: Bound) -> Executor:
    know(programs.args, programs.kwargs, budget=2000)
    know(programs.model, programs.guide, vars(pyro.get_param_store()))
    return Executor(
        programs.model,
        programs.guide,
        programs.args,
        programs.kwargs,
        _as_pyro_draws,
        additive=False,  # so that the guide's densities are differentiated
        follow=not bound.additive,
        follow_all=True,
    )


def _as_pyro_draws(name: str, q: Any, infer: Mapping[str, Any]) -> Choice:
    """Values are given, and keep what gradient they have."""
    return Choice(Pathwise(), "enumerated")


def _log_probability(execution: Execution, explore: Explore) -> Tensor:
    """Of the guide's draws, whatever scale and mask they count with; in double precision."""
    costs = execution.run.costs
    device = costs[0].log_density.device if costs else None
    total = torch.tensor(explore.log_weight, dtype=torch.float64, device=device)
    for name in explore.discrete:
        msg = execution.guide.sites[name]
        total = total + sampling_law(msg["fn"]).log_prob(msg["value"]).sum()
    return total


def _everything(run: Run, log_q: Tensor) -> Tensor:
    return torch.stack([log_q, *(cost.log_density.sum().to(log_q) for cost in run.costs)]).sum()


def _next(taken: Sequence[tuple[int, int]]) -> list[int] | None:
    """The branches to take in the run after this one; None after the last."""
    path = list(taken)
    while path:
        index, count = path.pop()
        if index + 1 < count:
            return [*(i for i, _ in path), index + 1]
    return None


def _product(counts: Any) -> int:
    total = 1
    for count in counts:
        total *= count
    return total


def _check_total(draws: Sequence[Draw]) -> None:
    total = sum(float(draw.log_q.detach().exp()) for draw in draws)
    if not draws or abs(total - 1) > 1e-4:
        raise NoReference(
            f"the probabilities of the guide's draws sum to {total:.6g}; is it a function of its "
            "sample sites alone?"
        )


def _differentiate(value: Tensor, programs: Programs) -> dict[str, Tensor]:
    leaves = list(programs.parameters.values())
    if not leaves:
        return {}
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    pairs = zip(programs.parameters.items(), found, strict=True)
    return {name: (torch.zeros_like(p) if g is None else g).double() for (name, p), g in pairs}


def _rounding(
    terms: Tensor, mean: Mapping[str, Tensor], programs: Programs, eps: float
) -> dict[str, Tensor]:
    """What the sum may be off by, from what it would be if its terms did not cancel."""
    size = {name: g.abs() for name, g in mean.items()}
    order = torch.arange(len(terms), device=terms.device)
    for signs in (order % 2 * 2 - 1, (order < len(terms) / 2) * 2 - 1):
        swung = _differentiate((signs * terms).sum(), programs)
        size = {name: s.maximum(swung[name].abs()) for name, s in size.items()}
    return {name: rounding(s, eps) for name, s in size.items()}


def _eps(draws: Sequence[Draw]) -> float:
    """Of the coarsest log density."""
    kinds = {cost.log_density.dtype for draw in draws for cost in draw.run.costs}
    return max((torch.finfo(dtype).eps for dtype in kinds), default=0.0)


def _told(draws: Sequence[Draw], exact: bool) -> str:
    sites = {name for draw in draws for name in draw.values}
    names = ", ".join(sorted(sites)) or "no site"
    manner = "" if exact else ", nodes of quadrature or a cut-off among them"
    return f"enumeration of the {len(draws)} joint draws of {names}{manner}"
