"""Where, when, with what and beside whom a benchmark ran."""

import math
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("pyro-dsvi", "pyro-ppl", "torch", "numpy", "scikit-learn", "jax", "numpyro", "tyxe")
_ROOT = Path(__file__).parents[1]


def machine(threads: int) -> dict[str, Any]:
    """The machine, the versions, the commit and the load at this moment."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "torch_threads": threads,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": sorted((_git("status", "--short", "--", "pyro_dsvi") or "").splitlines()),
    }


class Neighbours:
    """Notices other processes on the cores that this one is held to.

    Attributes:
        share: share of the cores' time that went to others, theft by the host included; 0 where
            the system does not tell.
    """

    share = 0.0

    def __enter__(self) -> "Neighbours":
        self._began = self._now()
        return self

    def __exit__(self, *error: Any) -> None:
        busy, own, whole = (b - a for a, b in zip(self._began, self._now(), strict=True))
        if whole > 0 and math.isfinite(busy):
            self.share = min(1.0, max(0.0, (busy - own) / whole))

    def _now(self) -> tuple[float, float, float]:
        """Seconds that the cores were busy, that we made them so, and that there were."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        wall = time.perf_counter() * max(len(cores), 1)
        try:
            lines = Path("/proc/stat").read_text().splitlines()
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            return math.nan, time.process_time(), wall
        busy = 0.0
        for line in lines:
            name, *numbers = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                user, nice, system, _idle, _iowait, *rest = map(float, numbers)
                busy += user + nice + system + sum(rest[:3])
        return busy / ticks, time.process_time(), wall


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip()
