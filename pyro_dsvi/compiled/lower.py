"""A recorded graph made ready to run: compiled by inductor, or replayed operation by operation.

Inductor is asked to leave random draws to torch (``fallback_random``): the compiled step then draws
what the eager step would have drawn from the same state of the generator.
"""

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.compiled.compilation import Compilation
from pyro_dsvi.errors import NotCompiledWarning
from pyro_dsvi.passes.minibatch import draw_by_operations

Run = Callable[..., Sequence[Tensor]]
Say = Callable[[type[Warning], str], None]
_FUSED = {torch.ops.dsvi.draw_subset.default: draw_by_operations}
_SECONDS_A_SITE = 0.5
_PATIENCE = 2.0  # seconds without a word


def lower(
    graph: torch.fx.GraphModule,
    inputs: Sequence[Tensor],
    compilation: Compilation,
    sites: int,
    say: Say,
    *,
    small: bool = False,
) -> Run:
    """Make a graph ready to run.

    Args:
        graph: the graph; it may write its inputs in place.
        inputs: tensors like those that it will be run with, none of which requires a gradient.
        compilation: the settings.
        sites: sample sites in the graph.
        say: gives a warning once.
        small: whether the calls take longer than the kernels that are called.

    Returns:
        A function of such inputs that returns the outputs.
    """
    for rewrite in compilation.passes:
        graph = rewrite(_copy(graph))
    if not _is_to_be_compiled(compilation, sites, say):
        return graph.forward
    try:
        with _progress(len(graph.graph.nodes)):
            return _inductor(graph, inputs, _calls_in_cpp(inputs, compilation, small))
    except Exception as error:  # whatever a compiler may raise; the recording is right as it is
        first_line = (str(error).splitlines() or [""])[0]
        say(
            NotCompiledWarning,
            f"the recorded step is replayed uncompiled, since inductor raised "
            f"{type(error).__name__}: {first_line}; pass "
            "compiled=dsvi.Compilation(backend='recorded') to choose this",
        )
        return graph.forward


def _copy(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    copy = torch.fx.Graph()
    copy.output(copy.graph_copy(graph.graph, {}))
    return torch.fx.GraphModule(graph, copy)


def _is_to_be_compiled(compilation: Compilation, sites: int, say: Say) -> bool:
    if compilation.backend == "recorded":
        return False
    if sites <= compilation.max_sites:
        return True
    seconds = round(sites * _SECONDS_A_SITE)
    if compilation.backend != "auto":
        say(NotCompiledWarning, f"compiling a step of {sites} sites takes about {seconds} s")
        return True
    say(
        NotCompiledWarning,
        f"the recorded step is replayed uncompiled, since compiling its {sites} sites would take "
        f"about {seconds} s; pass compiled=dsvi.Compilation(backend='inductor') to compile it",
    )
    return False


def _calls_in_cpp(inputs: Sequence[Tensor], compilation: Compilation, small: bool) -> bool:
    """Whether what calls the kernels is compiled as well."""
    if compilation.backend == "auto":
        return small and all(x.device.type == "cpu" for x in inputs)
    return compilation.backend == "cpp"


def _inductor(graph: torch.fx.GraphModule, inputs: Sequence[Tensor], in_cpp: bool) -> Run:
    # Sizes are checked before a replay, where it is cheaper.
    options = {"fallback_random": True, "size_asserts": False, "alignment_asserts": False}
    options["cpp_wrapper"] = in_cpp
    made: list[tuple[Any, int]] = []

    def inner(module: torch.fx.GraphModule, examples: Sequence[Any], **rest: Any) -> Any:
        code = compile_fx.compile_fx_inner(module, examples, **rest)
        made.append((code, len(examples)))
        return code

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from torch._functorch import config
        from torch._inductor import compile_fx
        from torch._inductor.decomposition import select_decomp_table

        with config.patch(enable_autograd_cache=False):  # the kernels have a cache of their own
            compiled: Any = compile_fx.compile_fx(
                graph,
                list(inputs),
                inner_compile=inner,
                config_patches=options,
                decompositions={**select_decomp_table(), **_FUSED},
            )
    if len(made) == 1 and made[0][1] == len(inputs) and _gives_one(graph):
        return _directly(made[0][0], compiled)
    return compiled


def _gives_one(graph: torch.fx.GraphModule) -> bool:
    """Whether the loss is all that comes out: nothing then can be a view of an input."""
    (outputs,) = graph.graph.output_node().args
    return isinstance(outputs, (tuple, list)) and len(outputs) == 1


def _directly(code: Any, otherwise: Run) -> Run:
    """The generated code without what stands around it for the sake of autograd and of views."""
    call = getattr(code, "current_callable", None)
    if call is None:
        return otherwise

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        return call(list(inputs))

    return run


@contextmanager
def _progress(operations: int) -> Iterator[None]:
    """Say on the terminal what takes so long, if it takes long."""
    spoken = threading.Event()

    def speak() -> None:
        spoken.set()
        print(f"pyro_dsvi: compiling a step of {operations} operations ...", file=sys.stderr)

    timer, start = threading.Timer(_PATIENCE, speak), time.monotonic()
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if spoken.is_set():
            print(f"pyro_dsvi: compiled in {time.monotonic() - start:.1f} s", file=sys.stderr)
