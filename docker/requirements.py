"""Prints the requirements of a pyproject.toml, one a line: `requirements.py pyproject.toml [EXTRA…|build]`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(text: str, parts: list[str]) -> list[str]:
    """Returns what a project requires, so that it can be installed before the project's sources are there.

    Args:
        text: the content of its `pyproject.toml`.
        parts: names of extras to add, or the word `build` alone for what builds it.
    """
    content = tomllib.loads(text)
    if parts == ["build"]:
        return list(content["build-system"]["requires"])
    extras = content["project"]["optional-dependencies"]
    return [*content["project"]["dependencies"], *(line for part in parts for line in extras[part])]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:])))
