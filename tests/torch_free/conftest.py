"""Where torch is missing, the package's torch-free modules are reached without its ``__init__``."""

import importlib.util
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = importlib.util.find_spec("torch") is None

if WITHOUT_TORCH:
    sys.path.insert(0, str(ROOT))
    for name in ("pyro_dsvi", "pyro_dsvi.diagnostics", "pyro_dsvi.export", "pyro_dsvi.figures"):
        bare = ModuleType(name)
        bare.__path__ = [str(ROOT / name.replace(".", "/"))]
        sys.modules[name] = bare


@pytest.fixture(scope="session")
def exported() -> dict[str, Any]:
    """What :mod:`tests.torch_free.exported` makes: made here, or read from $DSVI_EXPORTED."""
    file = os.environ.get("DSVI_EXPORTED")
    if file is not None:
        return pickle.loads(Path(file).read_bytes())
    if WITHOUT_TORCH:
        pytest.fail("without torch, $DSVI_EXPORTED must name a file; run make arviz1")
    from tests.torch_free.exported import export

    return export()
