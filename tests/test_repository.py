"""The repository as others get it: no trace of a machine, every requirement pinned, the data shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def _tracked_texts() -> dict[str, str]:
    """Every text file that is, or would be, committed, by its path in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:  # an unpacked source distribution
        paths = [path for top in ("tensorrl", "tests", "benchmarks", "docs") for path in (ROOT / top).rglob("*")]
        paths += ROOT.glob("*.*")
    texts = {}
    for path in paths:
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[str(path.relative_to(ROOT))] = content.decode("utf-8", errors="replace")
    return texts


# Written in pieces, so that this file is not its own first finding. /home/ray is the home in Ray's public images.
_FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.~-])/(?:" + "work" + r"|home/(?!ray\b)\w+|" + "Users" + r"/\w+)/",
            r"(?<![\w.~-])/opt/" + r"(?:wheels|pypi)",
            r"\.\./" + "shared",
            r"\b(?:files\.)?python" + r"hosted\.org",
            r"\bpypi" + r"\.org",
            r"\bdownload\.py" + r"torch\.org",
            r"\bregistry\." + r"(?:npmjs|yarnpkg)\.",
            r"\bdeb\." + r"debian\.org",
        ]
    )
)


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    texts = _tracked_texts()
    assert "pyproject.toml" in texts
    own = re.compile(re.escape(str(ROOT)) + r"(?![\w-])") if len(ROOT.parts) > 2 else None
    faults = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if _FOREIGN.search(line) or (own and own.search(line))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("/" + "work/main/runs", True),
        ("see .." + "/shared/design.md", True),
        ("--index-url https://pypi" + ".org/simple", True),
        ("/home/" + "someone/runs", True),
        ("WORKDIR /home/ray/tensorrl", False),
        ("a framework/library, see docs.pytorch.org", False),
        ("runs/work/x and ./work/y", False),
    ],
)
def test_the_search_for_machine_paths_tells_them_from_prose(line: str, foreign: bool) -> None:
    assert bool(_FOREIGN.search(line)) is foreign


def _project() -> dict[str, list[str]]:
    """The requirements of the project (""), and of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def _pins() -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {
        canonicalize_name(name): Version(version)
        for name, _, version in (line.partition("==") for line in lines if line)
    }


@pytest.mark.parametrize(
    "requirement", [Requirement(line) for lines in _project().values() for line in lines], ids=lambda one: one.name
)
def test_every_requirement_is_bounded_and_pinned_within_its_bounds(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert {">=", "<"} <= operators
    pin = _pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin)
    assert pin.local is None


# What only these modules import, and only inside a function that says what to install where it is missing.
OF_EXTRAS = {"onnx": {"trial/policy_export.py", "tracking/model.py"}}


def test_every_third_party_import_is_a_declared_requirement() -> None:
    # Where the import is not called what the requirement is; pydantic requires one exact pydantic_core.
    distributions = {"yaml": "pyyaml", "PIL": "pillow", "pydantic_core": "pydantic"}
    imported = set()
    extras = {
        module: {canonicalize_name(Requirement(line).name) for line in _project()[extra]}
        for extra, modules in OF_EXTRAS.items()
        for module in modules
    }
    for path in (ROOT / "tensorrl").rglob("*.py"):
        optional = extras.get(str(path.relative_to(ROOT / "tensorrl")), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names} - optional
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"tensorrl"}
    declared = {canonicalize_name(Requirement(line).name) for line in _project()[""]}
    assert {name for name in foreign if canonicalize_name(distributions.get(name, name)) not in declared} == set()
