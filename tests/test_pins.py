"""pyproject.toml, constraints.txt and the image's lock name the same packages: none is missing, none is left over.

Versions and hashes of the lock are tested in tests/cluster/test_hardening.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
IMAGE = [*PROJECT["project"]["dependencies"], *EXTRAS["server"], *EXTRAS["onnx"]]
EVERYTHING = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines),
]
# hatchling builds the wheel in an environment of its own, so that its metadata is not at hand here.
OF_HATCHLING = {"trove-classifiers"}
# PyTorch's CUDA build requires them, and the CPU build, which may be the one that is installed, does not.
OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def _versions(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s\\;]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def _required(lines: Iterable[str], *, everywhere: bool = False) -> set[str]:
    """The packages that requirements lead to, by the metadata of what is installed.

    Args:
        lines: requirements.
        everywhere: follow requirements of other systems and versions of Python as well.
    """
    reached: set[str] = set()
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        reached.add(name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        try:
            inner = distribution(name).requires or []
        except PackageNotFoundError:  # of an extra that is not installed, or of another system
            continue
        waiting += [each for each in map(Requirement, inner) if _holds(each, one.extras, everywhere=everywhere)]
    return reached


def _holds(requirement: Requirement, extras: set[str], *, everywhere: bool) -> bool:
    if requirement.marker is None:
        return True
    named = {canonicalize_name(name) for name in re.findall(r"extra == ['\"]([^'\"]+)", str(requirement.marker))}
    if everywhere:
        return not named or bool(named & {canonicalize_name(extra) for extra in extras})
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})


def test_each_pin_is_of_a_package_that_something_requires() -> None:
    assert set(_versions(ROOT / "constraints.txt")) - _required(EVERYTHING) - OF_HATCHLING == set()


def test_each_package_that_something_requires_is_pinned() -> None:
    assert _required(EVERYTHING) - set(_versions(ROOT / "constraints.txt")) == set()


def test_the_lock_holds_what_the_image_requires_and_no_more() -> None:
    lock = set(_versions(ROOT / "docker/requirements.lock"))
    assert _required(IMAGE) - lock == set()
    assert {name for name in lock - _required(IMAGE, everywhere=True) if not OF_CUDA.fullmatch(name)} == set()
