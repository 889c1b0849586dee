r"""Which sampled sites reach which tensor: :math:`v \prec w`, followed while the programs run.

Every torch function called by a program is seen by a ``TorchFunctionMode``.  Its outputs carry the
union of what its inputs carry, as a bit set with one bit a latent site.  Nothing is guessed away:

- a tensor that was made during the run by something the mode does not see (TorchScript, ``vmap``,
  a compiled extension) carries every site drawn so far;
- when a value leaves torch (``.item()``, ``int()``, ``bool()``, numpy, an index, a shape that
  depends on data), the sites behind it reach everything that is sampled or scored from then on.

Not noticed: what a compiled function does to its arguments in place (the running statistics of a
batch normalisation among them), and a value read in another thread.

A tensor that existed before the run carries nothing.  Such tensors are known by having been seen
in an earlier run, or by being found beforehand in what the programs can reach (``preexisting``).

References:
    :cite:p:`wingate2013automated`, :cite:p:`schulman2015scg`
"""

import functools
import inspect
import sys
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, constraints
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _pop_mode,
    _push_mode,
)

from pyro_dsvi.graph.leaks import MAY_LEAK, METADATA, SHARES_MEMORY, telling

_PLAIN = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, torch.Size, torch.dtype, torch.device)
)
# A branch taken in here ends in an error or inside a distribution, whose tensors are read anyway.
_HARMLESS_CALLERS = ("torch.distributions.", "pyro.distributions.")
_OWN = __name__.rpartition(".")[0]
_MARK = "_dsvi_influence"
_ABOUT = frozenset((torch.Size, torch.dtype, torch.device, torch.layout))  # tell no content
_PAST = (0, 0)


class Influence(TorchFunctionMode):
    """Follows the latent sites of one execution of guide and model through torch.

    Use as a context around each program; the same instance serves the guide and then the model.

    Args:
        bits: the bits given out so far, shared between the particles of a step.
    """

    def __init__(self, bits: dict[str, int] | None = None) -> None:
        super().__init__()
        self.bits: dict[str, int] = {} if bits is None else bits
        self.drawn = 0
        self.escaped = 0
        self._run = time.monotonic_ns()  # told apart from earlier runs; a plain number can be saved
        self._mutated: dict[int, tuple[int, Tensor]] = {}
        self._shared: set[int] = set()

    # -- what passes ask and tell ------------------------------------------------------------

    def bit(self, site: str) -> int:
        """The site's own bit."""
        return self.bits.setdefault(site, 1 << len(self.bits))

    def drew(self, site: str, value: Tensor, reach: int, own: bool) -> int:
        """A latent was drawn from a distribution that ``reach`` had reached; marks its value.

        Args:
            site: the latent's name.
            value: the draw.
            reach: what reached its distribution.
            own: whether the latent itself is followed from here on.

        Returns:
            What the value carries.
        """
        if own:
            reach |= self.bit(site)
        self.drawn |= reach
        setattr(value, _MARK, (self._run, reach))
        return reach

    def same(self, copy: Tensor, original: Tensor) -> None:
        """``copy`` carries what ``original`` carries."""
        setattr(copy, _MARK, (self._run, self.of(original)))

    def of(self, x: Any) -> int:
        """Bit set of everything behind a tensor, distribution, number or container of these."""
        if type(x) in _PLAIN or isinstance(x, type):
            return 0
        if isinstance(x, Tensor):
            return self._of_tensor(x)
        if isinstance(x, (Distribution, torch.nn.Module, constraints.Constraint)):
            return self._union(vars(x).values())
        if isinstance(x, (tuple, list, set, frozenset)):
            return self._union(x)
        if isinstance(x, dict):
            return self._union(x.values())
        if isinstance(x, Transform):
            return self._union(v for k, v in vars(x).items() if k not in ("_inv", "_cached_x_y"))
        if isinstance(x, functools.partial):
            return self._union((x.func, x.args, x.keywords))
        if inspect.isbuiltin(x):
            return 0
        if inspect.isfunction(x) and not x.__closure__:
            return self.of(x.__defaults__) | self.of(x.__kwdefaults__)
        return self.drawn  # who knows what it holds

    def pause(self) -> bool:
        """Look away, unless another mode lies on top; whether it did so."""
        on_top = _get_current_function_mode() is self
        if on_top:
            _pop_mode()
        return on_top

    def resume(self) -> None:
        """Look again, after :meth:`pause`."""
        _push_mode(self)

    def mark_parts(self, q: Any, reach: int) -> None:
        """Tensors that a distribution computed for itself meanwhile carry ``reach``."""
        for part in vars(q).values():
            if isinstance(part, Tensor) and getattr(part, _MARK, None) is None:
                setattr(part, _MARK, (self._run, reach))

    # -- following ---------------------------------------------------------------------------

    def _union(self, parts: Iterable[Any]) -> int:
        reach = 0
        for part in parts:
            kind = type(part)
            if kind is Tensor:
                reach |= self._of_tensor(part)
            elif kind not in _PLAIN:
                reach |= self.of(part)
        return reach

    def _of_tensor(self, x: Tensor) -> int:
        mark = getattr(x, _MARK, None)
        if mark is None:
            reach = self.drawn
            setattr(x, _MARK, (self._run, reach))
            self._shared.add(_storage(x))
        else:
            reach = mark[1] if mark[0] == self._run else 0
        if self._mutated:
            changed = self._mutated.get(_storage(x))
            if changed is not None:
                reach |= changed[0]
        return reach

    def _of_arguments(self, arguments: Iterable[Any]) -> int:
        reach = 0
        for argument in arguments:
            kind = type(argument)
            if kind in _PLAIN:
                continue
            if kind is Tensor or isinstance(argument, Tensor):
                reach |= self._of_tensor(argument)
            elif isinstance(argument, (tuple, list)):
                reach |= self._of_arguments(argument)
            elif isinstance(argument, dict):
                reach |= self._of_arguments(argument.values())
            elif kind is slice:
                reach |= self._of_arguments((argument.start, argument.stop, argument.step))
        return reach

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs) if kwargs else func(*args)
        made = type(out)
        if made in _ABOUT:
            return out
        if self._mutated or not self.drawn:
            self._follow(func, args, kwargs or {}, out)
            return out
        # The same as _follow for the usual operation, without a call: this is the hot path.
        run, reach, usual = self._run, 0, not kwargs and func not in MAY_LEAK
        for x in (*args, *kwargs.values()) if kwargs else args:
            kind = type(x)
            if kind is Tensor:
                mark = getattr(x, _MARK, None)
                if mark is None:
                    reach |= self._of_tensor(x)
                elif mark[0] == run and mark[1]:
                    reach |= mark[1]
                    usual &= x.dtype.is_floating_point or x is args[0]  # else it may be a size
            elif kind not in _PLAIN:
                reach |= self._of_arguments((x,))
        if made is Tensor and usual and args and out is not args[0]:
            setattr(out, _MARK, (run, reach))
        elif usual and made in (tuple, list) and out and type(out[0]) is Tensor:
            self._mark(out, reach)
        else:
            self._mark_result(func, args, kwargs or {}, out, reach)
        return out

    def _follow(self, func, args, kwargs, out) -> None:
        if self.drawn:
            reach = self._of_arguments(args) | self._of_arguments(kwargs.values())
            self._mark_result(func, args, kwargs, out, reach)
            return
        # Nothing to follow yet, but what is made counts as seen.
        if func in SHARES_MEMORY:
            self._note_shared(args, out)
        if isinstance(out, Tensor):
            if getattr(out, _MARK, None) is None:
                setattr(out, _MARK, (self._run, 0))
        elif isinstance(out, (tuple, list)):
            self._mark(out, 0)

    def _note_shared(self, args, out) -> None:
        """An array outside torch may hold the same memory from now on."""
        self._shared.update(_storage(x) for x in (*args, out) if isinstance(x, Tensor))

    def _mark_result(self, func, args, kwargs, out, reach: int) -> None:
        if isinstance(out, Tensor):
            if (args and out is args[0]) or (kwargs and out is kwargs.get("out")):
                self._changed_in_place(out, reach)
            else:
                setattr(out, _MARK, (self._run, reach))
        elif func is torch.broadcast_tensors:  # as distributions do; each remains what it was
            tensors = args[0] if isinstance(args[0], (tuple, list)) else args
            for before, after in zip(tensors, out, strict=True):
                self.same(after, before)
        elif isinstance(out, (tuple, list)) and any(isinstance(x, Tensor) for x in out):
            self._mark(out, reach)
        elif reach:
            self._not_a_tensor(getattr(func, "__name__", ""), args, out, reach)
        if func in SHARES_MEMORY:
            self._note_shared(args, out)
        if reach:
            self.escaped |= self._of_arguments(telling(func, args, kwargs))

    def _not_a_tensor(self, name: str, args, out, reach: int) -> None:
        if name in METADATA or isinstance(out, tuple):
            return
        if out is None and args and isinstance(args[0], Tensor):
            self._changed_in_place(args[0], reach)
        elif not _caller().startswith(_HARMLESS_CALLERS):
            self.escaped |= reach

    def _mark(self, outputs: Iterable[Any], reach: int) -> None:
        for out in outputs:
            if isinstance(out, Tensor):
                setattr(out, _MARK, (self._run, reach))
            elif isinstance(out, (tuple, list)):
                self._mark(out, reach)

    def _changed_in_place(self, x: Tensor, reach: int) -> None:
        mark, storage = getattr(x, _MARK, _PAST), _storage(x)
        if mark[0] != self._run or storage in self._shared:  # who knows who else looks at it
            self.escaped |= reach
        before = self._of_tensor(x)
        if reach | before == before:
            return
        setattr(x, _MARK, (self._run, reach | before))
        known = self._mutated.get(storage, (0, x))[0]
        # Holding x keeps the storage's address from being used again within this run.
        self._mutated[storage] = (known | reach | before, x)


def mark_as_past(x: Tensor) -> None:
    """Note that a tensor was there before the run, unless it is known already."""
    if getattr(x, _MARK, None) is None:
        setattr(x, _MARK, _PAST)


def _caller() -> str:
    """Name of the module that called the torch function at hand."""
    frame = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_OWN):
        frame = frame.f_back
    return "" if frame is None else frame.f_globals.get("__name__", "")


def _storage(x: Tensor) -> int:
    try:
        return x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # tensors without storage, inside torch.func
        return id(x)
