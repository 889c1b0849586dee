"""What a recording cannot show by itself: values that leave torch, and tensors written in place.

A recorded step is an ordinary eager step, so nothing is refused half way: where a tensor's value is
read in Python (``.item()``, ``if``, a data-dependent shape), the value is given, the place is noted
and the recording is thrown away in the end.
"""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_dsvi.compiled.indexing import by_tensor
from pyro_dsvi.compiled.places import caller_of_torch, place, users_frame

_LEAVES_TORCH = frozenset(
    ["numpy", "tolist", "__array__", "__dlpack__", "__deepcopy__", "__reduce_ex__", "__format__"]
)
# A value is read here to be checked, and nothing but an error comes of it.
_CHECKS = frozenset(
    [
        "_validate_sample",
        "__init__",
        "check",
        "warn_if_nan",
        "warn_if_inf",
        "_validate_log_prob_arg",
    ]
)
# Here torch reads a value in C++ to check an index, with the number of classes given.
_CHECKED_IN_C = (
    "torch.distributions.one_hot_categorical",
    "pyro_dsvi.estimators.gumbel_softmax",
)
# What is compared here follows from the programs' structure, not from what was drawn.
_STRUCTURAL = ("pyro_dsvi.graph.closed_form",)
_BATCH_NORM = (
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten.cudnn_batch_norm.default,
)


class Witness(TorchDispatchMode):
    """Sees every operation of a recorded step.

    Attributes:
        reads: where values were read, in words, in order.
        written: tensors that were written in place, each with its content before.
        site: the last site that was sampled.
        parameters: the unconstrained parameters that the programs and baselines named.
        sites: number of sites that were sampled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.written: list[tuple[Tensor, Tensor]] = []
        self.parameters: dict[str, Tensor] = {}
        self.site: str | None = None
        self.sites = 0
        self._storages: set[int] = set()
        self._modes: tuple[Any, ...] = ()

    def __enter__(self) -> "Witness":
        self._modes = (_Outgoing(self), _Sites(self))
        super().__enter__()
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _tells_content(func, args):
            return self._told(func, args, kwargs)
        self._keep(func, args, kwargs)
        out = func(*args, **kwargs)
        _annotate(self.site)
        return out

    def naming(self) -> "Messenger":
        """Only see which sites are sampled and which parameters are asked for."""
        return _Sites(self)

    def read(self, what: str) -> None:
        """Note that a value was read in Python."""
        self.reads.append(f"{what} at {place(users_frame(), self.site)}")

    def _told(self, func, args, kwargs):
        from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

        module, function = caller_of_torch()
        checked = module.startswith(("torch.", "pyro.")) and function in _CHECKS
        if not checked and not module.startswith((*_CHECKED_IN_C, *_STRUCTURAL)):
            shape = torch.Tag.dynamic_output_shape in func.tags
            self.read(
                "a shape depends on a tensor's content"
                if shape
                else "a tensor's value is read in Python (`.item()`, `if`, `int(...)`)"
            )
        with disable_proxy_modes_tracing():
            return func(*args, **kwargs)

    def _keep(self, func, args, kwargs) -> None:
        """Keep the content of what is about to be written in place."""
        targets = []
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    targets.extend(value if isinstance(value, (list, tuple)) else [value])
            targets.extend(
                kwargs[a.name]
                for a in func._schema.arguments
                if a.name in kwargs and a.alias_info is not None and a.alias_info.is_write
            )
        elif func in _BATCH_NORM and args[5]:
            targets.extend(args[3:5])
        for target in targets:
            if not isinstance(target, Tensor):
                continue
            storage = target.untyped_storage()._cdata
            if storage not in self._storages:
                self._storages.add(storage)
                self.written.append((target, _content(target)))


def _content(x: Tensor) -> Tensor:
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    with disable_proxy_modes_tracing(), torch.no_grad():
        return x.detach().clone()


def _tells_content(func: Any, args: tuple[Any, ...]) -> bool:
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is torch.ops.aten.index.Tensor:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return True


def _annotate(site: str | None) -> None:
    """Tell the recorder's newest nodes where they come from."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    mode = get_proxy_mode()
    if mode is None:
        return
    where = None
    for node in reversed(mode.tracer.graph.nodes):
        if "place" in node.meta:
            break
        where = place(users_frame(), site) if where is None else where
        node.meta["place"] = where


class _Outgoing(TorchFunctionMode):
    """Sees tensors leave torch as arrays, lists or text, and keeps an index from doing so."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func is Tensor.__getitem__:
            apart = by_tensor(*args)
            if apart is not None:
                selecting, rest, dim = apart
                selected = func(args[0], selecting).squeeze(dim)
                return func(selected, rest) if rest else selected
        if name == "tensor_split" and any(isinstance(x, Tensor) for x in _where(*args, **kwargs)):
            self.witness.read("a tensor that says where to split is read in C++")
        if name in _LEAVES_TORCH:
            self.witness.read(f"a tensor leaves torch by `{name}`")
        return func(*args, **kwargs)


def _where(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """The arguments of ``tensor_split`` but for the tensor that is split."""
    return (*args[1:], *(value for key, value in kwargs.items() if key not in ("self", "input")))


class _Sites(Messenger):
    """Sees which site was sampled last, and which parameters were asked for."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ != "_Subsample":
            self.witness.site = msg["name"]
            self.witness.sites += 1

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        unconstrained = getattr(value, "unconstrained", None)
        self.witness.parameters[msg["name"]] = value if unconstrained is None else unconstrained()
