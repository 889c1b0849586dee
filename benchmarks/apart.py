"""Run a function in a fresh process that is held to a few cores from its start.

JAX sizes its pool of threads when it is first used and never again, and a process's peak of memory
never falls.  So whatever needs other threads, or a peak of its own, gets a process of its own.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def apart(function: Callable[..., T], *arguments: Any, threads: int) -> T:
    """The function's result; function, arguments and result must be picklable."""
    with _asked_for(threads):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, _hold, (threads,)) as pool:
            return pool.submit(function, *arguments).result()


def resident(key: str) -> float:
    """A line of ``/proc/self/status`` in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return float(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


@contextmanager
def _asked_for(threads: int) -> Iterator[None]:
    """Let processes that start now find the number of threads in their environment."""
    before = {name: os.environ.get(name) for name in _POOLS}
    os.environ.update(dict.fromkeys(_POOLS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _hold(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import torch

    torch.set_num_threads(threads)
