"""Where in the user's code something happened, in words."""

import linecache
import sys
from types import FrameType

_LIBRARIES = ("torch", "pyro", "pyro_dsvi", "numpy", "contextlib", "functools", "pyroapi")


def is_library(module: str) -> bool:
    """Whether a module is none of the user's."""
    return module.partition(".")[0] in _LIBRARIES


def users_frame() -> FrameType | None:
    """The innermost frame of the user's code; None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_library(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame


def caller_of_torch() -> tuple[str, str]:
    """Module and function that called torch's C functions: the innermost Python frame but ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_MACHINERY):
            return module, frame.f_code.co_name
        frame = frame.f_back
    return "", ""


_MACHINERY = (
    "pyro_dsvi.compiled",
    "pyro_dsvi.graph.influence",
    "pyro_dsvi.handlers.tied_batches",
    "torch.utils",
    "torch.overrides",
    "torch._",
    "torch.fx",
)


def place(frame: FrameType | None, site: str | None = None) -> str:
    """A frame's file, line and source, and the last site sampled before it."""
    after = f", after site {site!r}" if site else ""
    if frame is None:
        return f"inside a library{after}"
    file, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, line).strip()
    quoted = f" (`{source}`)" if source else ""
    return f"{file}:{line}{quoted}{after}"
