"""Imports point one way, and importing the package changes nothing.

A room is a name directly under ``pyro_dsvi``: a folder or a file. Rooms stand in layers; a
room may import its own layer and the earlier ones. Every import counts, inside functions and
under ``TYPE_CHECKING`` too: an arrow in the types is an arrow.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "pyro_dsvi"

LAYERS = (
    ("errors", "bounds", "baselines", "lazy"),
    ("optim", "graph", "estimators"),
    ("passes", "strategy"),
    ("objective", "compiled"),
    ("presets", "handlers", "distributions", "guides", "nn", "models"),
    ("predictive", "diagnostics", "export", "fit"),
    ("figures",),
    ("demo",),
)
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}

# Plain torch, of use without Pyro.
WITHOUT_PYRO = {"bounds", "baselines", "lazy"}
# A room's public name may be made in a later room: its door leads there once someone asks for it.
DOORS = {("graph/__init__.py", "diagnostics")}
# The only room that stands where a user does.
MAY_IMPORT_ROOT = {"demo"}


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line and dotted path of each import; a relative one counts from ``package``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = above + (node.module.split(".") if node.module else [])
            if module == [PACKAGE]:  # each name may be a room
                for alias in node.names:
                    yield node.lineno, [*module, alias.name]
            else:
                yield node.lineno, module


def wrong_imports(path: str, source: str) -> list[str]:
    """Name what is wrong with the imports of ``source``, a file at ``path`` from the root."""
    *package, file = Path(path).with_suffix("").parts
    if [*package, file] == [PACKAGE, "__init__"]:
        return []
    room = package[1] if len(package) > 1 else file
    if room not in LAYER:
        return [f"{path}: room {room!r} stands in no layer; give it one in tests/test_imports.py"]

    wrong = []
    for line, module in imported(ast.parse(source), package):
        said = f"{path}:{line}: {room}"
        if module[0] in ("pyro", "pyroapi") and room in WITHOUT_PYRO:
            wrong.append(f"{said} is plain torch and may not import {'.'.join(module)}")
        if module[0] != PACKAGE:
            continue
        to = module[1] if len(module) > 1 else None
        if to not in LAYER:
            if room not in MAY_IMPORT_ROOT:
                wrong.append(f"{said} may not import the package's root, nor names from it")
        elif LAYER[to] > LAYER[room] and ("/".join([*package[1:], f"{file}.py"]), to) not in DOORS:
            wrong.append(f"{said} may not import {to}, a later layer")
    return wrong


def test_imports_point_one_way():
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert files, "found no file to check"
    wrong = [
        line
        for file in files
        for line in wrong_imports(str(file.relative_to(ROOT)), file.read_text("utf-8"))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("bounds/iwae.py", "from pyro_dsvi.passes import score", "import passes"),
        ("bounds/iwae.py", "import pyro_dsvi.passes.score", "import passes"),
        ("bounds/iwae.py", "from ..graph import nodes", "import graph"),
        ("bounds/iwae.py", "from .. import graph", "import graph"),
        ("bounds/iwae.py", "from pyro_dsvi import errors, graph", "import graph"),
        ("bounds/a/deep.py", "from ...graph import nodes", "import graph"),
        ("bounds/__init__.py", "from ..graph import nodes", "import graph"),
        ("graph/nodes.py", "from pyro_dsvi.diagnostics import programs", "import diagnostics"),
        ("graph/__init__.py", "from pyro_dsvi.objective import Objective", "import objective"),
        ("graph/nodes.py", "def f():\n    from ..objective import Objective", "import objective"),
        ("graph/nodes.py", "if TYPE_CHECKING:\n    from .. import passes", "import passes"),
        ("errors.py", "from .fit import loop", "import fit"),
        ("presets.py", "import pyro_dsvi", "package's root"),
        ("presets.py", "import pyro_dsvi as dsvi", "package's root"),
        ("presets.py", "from pyro_dsvi import Objective", "package's root"),
        ("presets.py", "from . import *", "package's root"),
        ("bounds/iwae.py", "import pyro.distributions as dist", "plain torch"),
        ("baselines/neural.py", "from pyro import param", "plain torch"),
        ("helpers.py", "", "stands in no layer"),
        ("helpers/__init__.py", "", "stands in no layer"),
    ],
)
def test_a_wrong_import_is_seen(path, source, complaint):
    (said,) = wrong_imports(f"{PACKAGE}/{path}", source)
    assert complaint in said
    assert said.startswith(f"{PACKAGE}/{path}")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from pyro_dsvi.demo import main\nfrom . import fit, bounds"),
        ("bounds/iwae.py", "import torch\nfrom .bound import Bound\nfrom ..errors import Bad"),
        ("bounds/iwae.py", "from ..baselines import Baseline\nfrom pyro_dsvi import errors"),
        ("graph/nodes.py", "import pyro\nfrom pyro_dsvi.bounds import IWAE"),
        ("demo.py", "import pyro_dsvi as dsvi\nfrom pyro_dsvi import IWAE, fit"),
    ],
)
def test_a_right_import_passes(path, source):
    assert wrong_imports(f"{PACKAGE}/{path}", source) == []


# Runs in a process of its own: state before the import, the import, state after it.
PROBE = """
import json, random, sys, warnings
import numpy, pyro, pyro.distributions, pyro.infer, pyro.nn, pyro.optim, pyro.poutine, torch, tqdm
import torch.nn.functional

OWNERS = [
    torch, torch.nn, torch.nn.functional, torch.distributions, torch.Tensor, torch.nn.Module,
    torch.distributions.Distribution, pyro, pyro.distributions, pyro.infer, pyro.nn, pyro.optim,
    pyro.poutine, pyro.infer.ELBO, pyro.infer.SVI, pyro.distributions.TorchDistribution, numpy,
]
# Slow to load, or not there without an extra.
OPTIONAL = ["arviz", "graphviz", "matplotlib", "networkx", "scipy", "sklearn"]

def state():
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "validation of arguments": torch.distributions.Distribution._validate_args,
        "random state of torch": torch.get_rng_state().tolist(),
        "random state of numpy": str(numpy.random.get_state()),
        "random state of python": str(random.getstate()),
        "error state of numpy": str(numpy.geterr()),
        "Pyro's params": sorted(pyro.get_param_store()),
        "Pyro's settings": str(pyro.settings.get()),
        "warning filters": [str(f) for f in warnings.filters],
    }

before, owned, loaded = state(), [dict(vars(owner)) for owner in OWNERS], set(sys.modules)
import pyro_dsvi
after = state()
changed = [name for name in before if before[name] != after[name]]
changed += [
    f"{getattr(owner, '__name__', owner)}.{name}"
    for owner, names in zip(OWNERS, owned)
    for name, value in names.items()
    if not name.startswith("__") and vars(owner).get(name) is not value
]
changed += [f"loaded {m}" for m in OPTIONAL if m in sys.modules and m not in loaded]
print(json.dumps(changed))
"""


def changed_by_import(folder: Path) -> list[str]:
    """Import the package from ``folder`` in a new process; say what that changed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=folder,
        env=env | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"the import spoke: {done.stderr}"
    return json.loads(done.stdout)


def test_importing_the_package_changes_nothing():
    assert changed_by_import(ROOT) == []


def test_a_change_by_importing_is_seen(tmp_path):
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text(
        "import warnings, matplotlib, pyro, torch\n"
        "warnings.simplefilter('ignore')\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.nn.functional.linear = lambda x: x\n"
        "pyro.param('p', torch.tensor(0.0))\n"
        "torch.rand(())\n"
    )
    assert set(changed_by_import(tmp_path)) >= {
        "torch's default dtype",
        "random state of torch",
        "Pyro's params",
        "warning filters",
        "torch.nn.functional.linear",
        "loaded matplotlib",
    }
