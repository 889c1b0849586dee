r"""Adam for all parameters of a step in one call.

Pyro gives each parameter an optimizer of its own, and in a small model these take a third of a
step.  Here they keep their states, options and names, but all parameters with the same options are
updated by one fused operation.

References:
    :cite:p:`kingma2015adam`
"""

from collections.abc import Callable, Iterable, Mapping
from operator import is_, itemgetter
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument

_OPTIONS = ("lr", "betas", "eps", "weight_decay", "maximize")
_VALUES = itemgetter(*_OPTIONS)
_STATE = ("step", "exp_avg", "exp_avg_sq")


class FusedAdam(PyroOptim):
    """``pyro.optim.Adam``, updating all parameters at once.

    State is kept, saved and loaded as by ``pyro.optim.Adam``.  After a step the gradients are gone
    (``grad`` is None), so that the next ones are handed over instead of added.

    Args:
        optim_args: options of ``torch.optim.Adam`` (``lr``, ``betas``, ``eps``, ``weight_decay``,
            ``maximize``), or a function that returns them for a parameter's name.
        clip_args: ``clip_norm`` or ``clip_value``, or a function that returns them for a name.

    Raises:
        InvalidArgument: if an option asks for another algorithm, such as ``amsgrad``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> optim = dsvi.optim.FusedAdam({"lr": 0.01})
        >>> svi = pyro.infer.SVI(model, guide, optim, dsvi.PathwiseELBO())
        >>> loss = svi.step()
    """

    def __init__(
        self,
        optim_args: dict[str, Any] | Callable[..., dict[str, Any]],
        clip_args: dict[str, Any] | Callable[..., dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(_adam, optim_args, clip_args)
        self._groups: list[_Group] = []
        self._of: tuple[int, ...] = ()

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Update the parameters that have a gradient."""
        having = sorted((p for p in params if p.grad is not None), key=id)
        p: Any  # a parameter, where Pyro's annotations ask for its name
        for p in having:
            if p not in self.optim_objs:
                self._meet(p)
            clip = self.grad_clip[p]
            if clip is not None:
                clip(p)
        known = tuple(map(id, having))
        if known != self._of or not all(group.holds(self.optim_objs) for group in self._groups):
            self._groups, self._of = _grouped(having, self.optim_objs), known
        with torch.no_grad():
            for group in self._groups:
                group.update()
        for p in having:
            p.grad = None

    def _meet(self, p: Any) -> None:
        self.optim_objs[p] = self._get_optim(p)
        self.grad_clip[p] = self._get_grad_clip(p)
        if self._state_waiting_to_be_consumed:
            name = pyro.get_param_store().param_name(p)
            state = self._state_waiting_to_be_consumed.pop(name, None)
            if state is not None:
                self.optim_objs[p].load_state_dict(state)


class _Group:
    """Parameters with the same options, and their optimizers' state."""

    def __init__(self, params: list[Tensor], optimizers: list[torch.optim.Adam]) -> None:
        self.params = params
        self.optimizers = optimizers
        states = [_state(o, p) for o, p in zip(optimizers, params, strict=True)]
        self._states = [[state[name] for name in _STATE] for state in states]
        self.steps, self.means, self.squares = map(list, zip(*self._states, strict=True))
        self._values = _VALUES(optimizers[0].param_groups[0])
        self.options = dict(zip(_OPTIONS, self._values, strict=True))

    def holds(self, optimizers: Mapping[Tensor, torch.optim.Adam]) -> bool:
        """Whether these are still the parameters' optimizers, with the same state and options."""
        for p, mine, state in zip(self.params, self.optimizers, self._states, strict=True):
            if optimizers[p] is not mine or _VALUES(mine.param_groups[0]) != self._values:
                return False
            if not all(map(is_, map(mine.state[p].get, _STATE), state)):
                return False
        return True

    def update(self) -> None:
        """One step of Adam."""
        (beta1, beta2), options = self.options["betas"], self.options
        torch._foreach_add_(self.steps, 1.0)
        gradients: Any = [p.grad for p in self.params]
        torch._fused_adam_(
            self.params,
            gradients,
            self.means,
            self.squares,
            [],
            self.steps,
            lr=options["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            amsgrad=False,
            maximize=options["maximize"],
        )


def _grouped(params: list[Tensor], optimizers: dict[Tensor, torch.optim.Adam]) -> list[_Group]:
    alike: dict[Any, list[Tensor]] = {}
    for p in params:
        options = optimizers[p].param_groups[0]
        key = p.device, p.dtype, *_VALUES(options)
        alike.setdefault(key, []).append(p)
    return [_Group(group, [optimizers[p] for p in group]) for group in alike.values()]


def _state(optimizer: torch.optim.Adam, p: Tensor) -> dict[str, Tensor]:
    """The optimizer's state for its parameter, made as ``torch.optim.Adam`` makes it."""
    if optimizer.param_groups[0]["amsgrad"]:  # as loaded from another optimizer
        raise InvalidArgument("FusedAdam: has no amsgrad, which the loaded state asks for")
    state = optimizer.state[p]
    if state:
        state["step"] = state["step"].to(p.device)  # which an unfused optimizer keeps on the CPU
    else:
        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        state["exp_avg"] = torch.zeros_like(p)
        state["exp_avg_sq"] = torch.zeros_like(p)
    return state


def _adam(params: list[Tensor], **options: Any) -> torch.optim.Adam:
    unknown = options.keys() - {*_OPTIONS}
    if unknown:
        raise InvalidArgument(
            f"FusedAdam: got {', '.join(sorted(unknown))}, but has only {', '.join(_OPTIONS)}; "
            "use pyro.optim.Adam for the rest"
        )
    return torch.optim.Adam(params, fused=True, **options)
