"""Every source that the package cites stands in docs/references.bib, once."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_cited_source_is_listed_once():
    keys = re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "docs/references.bib").read_text("utf-8"), re.M)
    assert len(keys) == len(set(keys))
    cited = {
        key.strip(): file.name
        for file in sorted((ROOT / "pyro_dsvi").rglob("*.py"))
        for role in re.findall(r":cite(?::\w+)?:`([^`]+)`", file.read_text("utf-8"))
        for key in role.split(",")
    }
    assert cited, "found no citation to check"
    missing = {key: file for key, file in cited.items() if key not in keys}
    assert not missing
