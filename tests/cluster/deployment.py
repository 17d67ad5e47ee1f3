"""The files that a deployment is made of, as the tests of them read them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
LAUNCHER = {name: ROOT / name for name in ("cluster/aws.yaml", "cluster/gcp.yaml", "cluster/hosts/cluster.yaml")}
MANIFESTS = {path.name: path for path in sorted((ROOT / "cluster/kuberay").glob("*.yaml"))}
COMPOSE = {path.name: path for path in sorted((ROOT / "docker").glob("compose*.yaml"))}
SCRIPTS = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / ".ci/run", *sorted([*(ROOT / "docker").glob("*.sh"), *(ROOT / "cluster").rglob("*.sh")])]
}
PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def documents(path: Path) -> list[dict[str, Any]]:
    """Every document of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def values(node: Any, name: str) -> Iterator[Any]:
    """Every value that stands under a key, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name:
                yield value
            yield from values(value, name)
    elif isinstance(node, list):
        for item in node:
            yield from values(item, name)


def pin(package: str) -> str:
    """The version of a package that constraints.txt holds."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None, package
    return found[1]
