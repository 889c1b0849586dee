"""From a pair of programs to its stochastic computation graph."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dsvi.diagnostics.programs import Programs
from pyro_dsvi.diagnostics.undisturbed import undisturbed
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.estimators.law import tensors_of
from pyro_dsvi.graph.picture.graph import Graph
from pyro_dsvi.graph.picture.lineage import Lineage, inputs_of
from pyro_dsvi.graph.picture.links import Program, link
from pyro_dsvi.graph.picture.node import Role
from pyro_dsvi.graph.preexisting import know
from pyro_dsvi.objective import Objective
from pyro_dsvi.passes.enumeration import PlatesUnknown
from pyro_dsvi.passes.execute import Execution, Executor
from pyro_dsvi.passes.particles import Particles
from pyro_dsvi.passes.probe import aside
from pyro_dsvi.passes.record import Record
from pyro_dsvi.passes.retrace import retrace
from pyro_dsvi.presets import MixedELBO


def trace_graph(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    objective: Objective | None = None,
    **kwargs: Any,
) -> Graph:
    r"""The stochastic computation graph of a model and a guide under an objective.

    The programs are run once as the objective would run them for one particle at its next step,
    which tells which draw influences which cost, and who answers for what; then once more at the
    same values, which tells through which computed values.  What is found is the graph of that run:
    where programs branch on what they drew, another run may have another.  Generators, parameters
    and gradients are left as they were found.

    Inputs are the parameters (leaf tensors that require a gradient, from wherever the programs take
    them), the tensors among the arguments, and what is observed.  Deterministic nodes are the
    values that distributions are made from, as far as they were computed, those of
    ``pyro.deterministic``, and point masses of the guide.  Stochastic nodes are the guide's other
    draws, costs the terms of :math:`\log p(x, z) - \log q(z)`.

    Args:
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        objective: says which estimator each site gets, and which costs stand under one bound.
            None: :class:`~pyro_dsvi.MixedELBO`, pathwise where it can be, else the score function.
        kwargs: keyword arguments of both.

    Returns:
        The graph, to be asked, and drawn by ``.render(path)``.

    Raises:
        InvalidArgument: if the objective is none of this package.

    References:
        :cite:p:`schulman2015scg`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     b = pyro.sample("b", dist.Bernoulli(0.5))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        ...     pyro.sample("y", dist.Normal(2 * b, 1.0), obs=torch.tensor(0.3))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        ...     pyro.sample("b", dist.Bernoulli(logits=pyro.param("eta", torch.tensor(0.0))))
        >>> graph = dsvi.graph.trace_graph(model, guide)
        >>> graph.downstream_costs("b")
        ('log q(b)', 'log p(b)', 'log p(y)')
        >>> graph.deps("log p(y)")
        ('y', 'b')
        >>> graph.estimators
        {'z': Pathwise(), 'b': ScoreFunction(baseline=None)}
    """
    objective = MixedELBO() if objective is None else objective
    if not isinstance(objective, Objective):
        raise InvalidArgument(
            f"trace_graph: expected an objective of this package, got {objective!r}; e.g. "
            "dsvi.MixedELBO()"
        )
    programs = Programs(model, guide, args, kwargs)
    with undisturbed(model, guide), torch.enable_grad(), programs:
        watched = programs.watch()
        with watched:
            executor, execution = _run(programs, objective)
        programs.meet(watched, _everything(execution))
        lineage = Lineage(list(execution.guide.choices))
        for name, value in _data(programs):
            lineage.add_input(name, value, Role.DATA)
        for name, leaf in _named(programs):
            lineage.add_input(name, leaf, Role.BOTH)
        records = retrace(executor, execution, lineage)
        guide_sites, model_sites = (_program(record) for record in records)
        reasons = {name: choice.reason for name, choice in execution.guide.choices.items()}
        return link(execution.run, objective.bound, lineage, guide_sites, model_sites, reasons)


def _run(programs: Programs, objective: Objective) -> tuple[Executor, Execution]:
    """One particle, as the objective would run it, with every draw followed."""
    model, guide, args, kwargs = programs.model, programs.guide, programs.args, programs.kwargs
    with aside():
        guide(*args, **kwargs)  # it may set itself up in its first run
    know(model, guide, vars(pyro.get_param_store()), args, kwargs)
    executor = Executor(
        model,
        guide,
        args,
        kwargs,
        objective.strategy.choose,
        additive=objective.bound.additive,
        analytic_kl=objective.analytic_kl,
        follow_all=True,
    )
    try:
        return executor, executor.one(0, objective.num_particles)
    except PlatesUnknown:
        particles = Particles(1, False, objective.max_plate_nesting)
        executor.plates = particles.plates(None, model, guide, args, kwargs)
        return executor, executor.one(0, objective.num_particles)


def _everything(execution: Execution) -> Tensor:
    """A scalar that depends on every tensor that a gradient may come from."""
    records = execution.guide, execution.model
    messages = [msg for record in records for msg in record.sites.values()]
    tensors = [tensor for msg in messages for tensor in tensors_of(msg["fn"])]
    tensors += [torch.as_tensor(msg["value"]) for msg in messages]
    tensors += [cost.log_density for cost in execution.run.costs]
    scores = (latent.score for latent in execution.run.latents.values())
    tensors += [score for score in scores if score is not None]
    live = [tensor.sum() for tensor in tensors if tensor.requires_grad]
    return torch.stack([x.to(live[0]) for x in live]).sum() if live else torch.zeros(())


def _program(record: Record) -> Program:
    return Program(record.sites, record.reach, record.reach_of_law)


def _data(programs: Programs) -> Iterator[tuple[str, Tensor]]:
    """The tensors among the arguments, by the names that the model gives them, or the guide."""
    for program in (programs.model, programs.guide):
        called = program.forward if isinstance(program, torch.nn.Module) else program
        try:
            bound = inspect.signature(called).bind(*programs.args, **programs.kwargs)
        except (TypeError, ValueError):
            continue
        yield from inputs_of(bound.arguments)
    yield from inputs_of({"args": programs.args, **programs.kwargs})


def _named(programs: Programs) -> Iterator[tuple[str, Tensor]]:
    """The parameters by name; those that have none in Pyro by the variable that holds them."""
    held = [*_held(programs.model), *_held(programs.guide)]
    for name, leaf in programs.parameters.items():
        known = next((where for where, other in held if other is leaf), None)
        name = known if known is not None and name.startswith("leaf ") else name
        yield name.replace("$$$", "."), leaf  # as Pyro puts a module before its parameters


def _held(program: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters in the variables that a program closes over, or in attributes of its object."""
    function = getattr(program, "__func__", program)
    owner = getattr(program, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        yield from owner.named_parameters()
    variables: dict[str, Any] = dict(getattr(owner, "__dict__", {}))
    if inspect.isfunction(function):
        closed = inspect.getclosurevars(function)
        variables = {**variables, **closed.globals, **closed.nonlocals}
    for name, value in variables.items():
        if isinstance(value, torch.nn.Module):
            for part, leaf in value.named_parameters():
                yield f"{name}.{part}", leaf
        else:
            yield from inputs_of(value if isinstance(value, Mapping) else {name: value})
