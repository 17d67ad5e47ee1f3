"""The house of TensorRL: dependence goes one way, and starting the command line loads nothing heavy."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tensorrl"

# Low to high. A room imports its own level and those before it.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"uris", "errors", "games", "system", "files"}),
    frozenset({"networks"}),
    frozenset({"optimizers"}),
    frozenset({"learning"}),
    frozenset({"environments"}),
    frozenset({"trial"}),
    frozenset({"rllib"}),
    frozenset({"analysis"}),
    frozenset({"tracking"}),
    frozenset({"sweeps"}),
    frozenset({"cli", "__main__"}),
)
# The rooms within `sweeps`, by the same rule.
SWEEPS = ("grid", "store", "remote", "driver", "submit")
HEIGHT = {room: height for height, level in enumerate(LEVELS) for room in level}

# Libraries that a room may not import anywhere, not even inside a function.
FRAMEWORKS = frozenset({"ray", "mlflow", "gymnasium", "ale_py", "typer"})
BANNED = {
    "errors": FRAMEWORKS | {"torch", "numpy", "pydantic"},
    "games": FRAMEWORKS | {"torch", "numpy", "pandas"},
    "files": FRAMEWORKS | {"torch", "numpy", "pandas", "pydantic"},
    "networks": FRAMEWORKS,
    "optimizers": FRAMEWORKS,
    "environments": frozenset({"ray", "mlflow", "typer"}),
    "trial": frozenset({"ray", "mlflow", "typer"}),
}
ONLY = {"learning": frozenset({"torch", "numpy"})}

MOST_LINES, MOST_AT_THE_TOP = 350, 7
# What stands in one module only.
ONE_HOME = {"os.replace(": "tensorrl.files", "flock(": "tensorrl.files", "progress.jsonl": "tensorrl.trial.folder"}

# Rooms that the command line loads before it knows what is asked: starting them must not load what takes seconds.
LIGHT = ("errors", "games", "cli.sweeps", "cli.app")
HEAVY = ("torch", "ray", "mlflow", "gymnasium", "ale_py", "pandas", "scipy", "matplotlib", "tensorly", "kymatio")


@dataclass(frozen=True)
class Import:
    """One import statement's target: a dotted module, where it stands, and whether it runs as the module loads."""

    target: str
    line: int
    at_load: bool


def _modules(package: Path) -> dict[str, Path]:
    """Every module under `package` by dotted name, itself included."""
    named = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def _imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """Every import of a module, relative ones resolved, `from package import submodule` counted as the submodule."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            levels = package.split(".")
            above = ".".join(levels[: len(levels) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [above, node.module or ""]))
            members = [f"{base}.{alias.name}" for alias in node.names]
            targets = [member if member in modules else base for member in members]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(target, node.lineno, id(node) not in lazy)


def _room(module: str) -> str | None:
    """The room of a module of the package; None for the package itself and for foreign modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "tensorrl" and len(parts) > 1 else None


def _sweeps_room(module: str) -> str | None:
    """The room within `sweeps` of a module; None for modules that are in none."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["tensorrl", "sweeps"] and len(parts) > 2 and parts[2] in SWEEPS else None


def _faults(package: Path) -> list[str]:
    """Every breach of the order of rooms and of the lists above, one line each."""
    modules = _modules(package)
    faults = []
    for name, path in modules.items():
        room = _room(name)
        if room is None:
            continue
        if room not in HEIGHT:
            faults.append(f"{name}: room {room!r} has no place in LEVELS")
            continue
        for found in _imports(name, path, modules):
            place = f"{path.relative_to(package.parent)}:{found.line}"
            library = found.target.partition(".")[0]
            target = _room(found.target)
            if target is not None and HEIGHT.get(target, len(LEVELS)) > HEIGHT[room]:
                faults.append(f"{place}: {room} imports {found.target}, which is above it")
            inner, other = _sweeps_room(name), _sweeps_room(found.target)
            if inner is not None and other is not None and SWEEPS.index(other) > SWEEPS.index(inner):
                faults.append(f"{place}: sweeps.{inner} imports {found.target}, which is above it")
            if library in BANNED.get(room, ()):
                faults.append(f"{place}: {room} imports {library}")
            known = library == "tensorrl" or library in sys.stdlib_module_names
            if room in ONLY and not known and library not in ONLY[room]:
                faults.append(f"{place}: {room} imports {library}, allowed are {sorted(ONLY[room])}")
    return faults


def test_no_room_imports_a_higher_one_or_a_library_it_must_not_know() -> None:
    assert _faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("networks/layer.py", "import tensorrl.learning.targets", "networks imports tensorrl.learning.targets"),
        ("networks/layer.py", "def build():\n    from ..rllib import module", "networks imports tensorrl.rllib"),
        ("networks/layer.py", "from tensorrl import learning", "networks imports tensorrl.learning"),
        ("networks/__init__.py", "from ..cli import main", "networks imports tensorrl.cli"),
        ("games.py", "from .sweeps import grid", "games imports tensorrl.sweeps"),
        ("environments/vector.py", "import ray.rllib", "environments imports ray"),
        ("learning/replay.py", "from scipy import stats", "learning imports scipy, allowed are ['numpy', 'torch']"),
        ("sweeps/grid/spec.py", "from tensorrl.sweeps.driver import run", "sweeps.grid imports tensorrl.sweeps.driver"),
        ("helpers.py", "", "room 'helpers' has no place"),
    ],
)
def test_the_check_sees_a_breach(tmp_path: Path, path: str, code: str, fault: str) -> None:
    package = tmp_path / "tensorrl"
    for room in ("networks", "learning", "rllib", "sweeps", "sweeps/grid", "sweeps/driver", "environments"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    for file in ("__init__.py", "cli.py", "learning/targets.py"):
        (package / file).touch()
    assert _faults(package) == []
    (package / path).write_text(code)
    found = _faults(package)
    assert len(found) == 1
    assert fault in found[0]


def test_no_file_is_longer_than_a_sitting_and_the_top_holds_few() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in _modules(PACKAGE).items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP


@pytest.mark.parametrize(("text", "home"), ONE_HOME.items())
def test_one_module_does_what_must_be_done_in_one_way(text: str, home: str) -> None:
    assert [name for name, path in _modules(PACKAGE).items() if text in path.read_text(encoding="utf-8")] == [home]


def test_modules_load_in_an_order_without_cycles() -> None:
    modules = _modules(PACKAGE)
    graph = {
        name: {found.target for found in _imports(name, path, modules) if found.at_load and found.target in modules}
        for name, path in modules.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", [room for room in LIGHT if f"tensorrl.{room}" in _modules(PACKAGE)])
def test_starting_the_command_line_loads_nothing_heavy(room: str) -> None:
    code = f"import sys, tensorrl.{room}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
