"""The layout of a store: one folder of cells that any number of sweeps share, and each sweep's own files.

STORE/
  .store.json                          its version
  <game>-<variant>-seed<k>-<key>/      a cell, as `tensorrl train` writes it; <key> is the start of its key
  .locks/<key>.lock                    held by the process that runs the cell
  mlflow.db                            MLflow's record, if no server is named
  .sweeps/<name>/
    sweep.yaml                         the sweep, every field written out
    cells.json                         its cells, in order
    state.json                         the last state that its driver wrote
    driver.lock                        held by its driver
    tune/                              Tune's own files
    report/                            its report
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tensorrl.errors import InputError, unknown
from tensorrl.files import open_plain, write_json, write_text
from tensorrl.sweeps.grid.cells import KEY_LETTERS, cells
from tensorrl.sweeps.grid.files import load_sweep, sweep_yaml
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.trial.cell import CELLS_FILE, SWEEPS_FOLDER, Cell, read_cells
from tensorrl.trial.folder import read_trial
from tensorrl.trial.names import inner_path, is_part

VERSION = 1
VERSION_FILE = ".store.json"
LOCKS_FOLDER = ".locks"
SWEEP_FILE = "sweep.yaml"
STATE_FILE = "state.json"
REPORT_FOLDER = "report"
DRIVER_LOCK = "driver.lock"
STOP_FILE = "stop"
TUNE_FOLDER = "tune"
STORE_VARIABLE = "TENSORRL_STORE"
_DEFAULT = "runs"
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
AnyCell = TypeVar("AnyCell", bound=Cell)


def default_store() -> Path:
    """Returns the store that a command without one uses: `TENSORRL_STORE`, or the folder `runs`."""
    return Path(os.environ.get(STORE_VARIABLE) or _DEFAULT).expanduser()


def store_path(given: Path | None = None) -> Path:
    """Returns the absolute path of the store.

    In a job of `ray job submit` the working folder is a copy that is deleted when the job ends. There a relative path
    is relative to the home folder.

    Args:
        given: a path from the command line; None takes `default_store`.
    """
    path = (given or default_store()).expanduser()
    return Path.home() / path if _JOB_VARIABLE in os.environ else path.absolute()


def check_version(store: Path) -> None:
    """Refuses a store that another version of TensorRL wrote.

    Raises:
        InputError: the store has another version, or its version cannot be read.
    """
    path = store / VERSION_FILE
    try:
        if not path.exists():
            return
        with open_plain(path) as file:
            held = json.loads(file.read())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not valid JSON (allowed: a store's version)") from None
    version = held.get("version") if isinstance(held, dict) else None
    if version != VERSION:
        raise InputError(f"{store}: is a store of version {version} (allowed: {VERSION}; choose another with --out)")


def version_text() -> str:
    """Returns the content of the version file of a store."""
    return json.dumps({"version": VERSION}) + "\n"


def open_store(store: Path) -> None:
    """Creates a store if it does not exist, and checks that it can be used.

    Raises:
        InputError: the store has another version, or cannot be written to; or what is written first is a symbolic
            link that leads out of it.
    """
    check_version(store)
    for name in (LOCKS_FOLDER, VERSION_FILE):
        inner_path(store, name, where=str(store))
    try:
        (store / LOCKS_FOLDER).mkdir(parents=True, exist_ok=True)
        if not (store / VERSION_FILE).exists():
            write_text(store / VERSION_FILE, version_text())
    except OSError as error:
        raise InputError(f"{store}: cannot be written to: {error.strerror}") from None


def sweep_folder(store: Path, name: str) -> Path:
    """Returns the folder of a sweep's own files."""
    return store / SWEEPS_FOLDER / name


def lock_file(store: Path, key: str) -> Path:
    """Returns the file that is locked by the process that runs the cell of `key`."""
    return store / LOCKS_FOLDER / f"{key[:16]}.lock"


def claim_name(key: str) -> str:
    """Returns the name, in a remote, of the file with which a machine claims the cell of `key`."""
    return f"{LOCKS_FOLDER}/{key[:16]}.json"


def sweep_name(name: str, file: str) -> str:
    """Returns the name, in a remote, of one of a sweep's own files."""
    return f"{SWEEPS_FOLDER}/{name}/{file}"


def locate(store: Path, grid: Sequence[AnyCell]) -> list[AnyCell]:
    """Returns the cells, each with its folder in the store, which may not exist yet.

    A cell that another sweep made under another variant's name is found by its key.

    Raises:
        InputError: a folder holds a different trial from the one in its name.
    """
    held: dict[str, list[str]] = {}
    for folder in sorted(_names(store)):
        held.setdefault(folder[-KEY_LETTERS:], []).append(folder)
    return [_locate(store, cell, held.get(cell.key[:KEY_LETTERS], [])) for cell in grid]


def find_folder(store: Path, key: str) -> str | None:
    """Returns the name of the folder that holds the cell of `key`, or None."""
    for folder in sorted(_names(store)):
        if folder.endswith(f"-{key[:KEY_LETTERS]}") and (read_trial(store / folder) or {}).get("key") == key:
            return folder
    return None


def _names(store: Path) -> list[str]:
    try:
        return [name for name in os.listdir(store) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locate(store: Path, cell: AnyCell, candidates: Sequence[str]) -> AnyCell:
    keys = {name: (read_trial(store / name) or {}).get("key") for name in candidates}
    if keys.get(cell.folder) not in (None, cell.key):
        raise InputError(f"{store / cell.folder}: holds another trial (allowed: another store, with --out)")
    same = [name for name in candidates if keys[name] == cell.key]
    return cell if cell.folder in same or not same else replace(cell, folder=same[0])


def write_sweep(store: Path, spec: SweepSpec, listed: Sequence[Cell]) -> Path:
    """Writes a sweep's file and its list of cells into the sweep's folder, and returns the folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = sweep_folder(store, spec.name)
    content = {"version": VERSION, "name": spec.name, "experiment": spec.experiment}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SWEEP_FILE, sweep_yaml(spec))
        write_json(folder / CELLS_FILE, content | {"cells": [cell.row() for cell in listed]})
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}") from None
    return folder


def find_sweep(store: Path, wanted: str) -> tuple[str, list[Cell]]:
    """Returns the name and the cells of a sweep, given by its file or by the name of a sweep that was run in the store.

    Args:
        store: the store.
        wanted: a sweep file that exists, or the name of a sweep.

    Raises:
        InputError: there is no such file or sweep (with the nearest name); the file is not valid; the list of cells is
            damaged; the store has another version.
    """
    check_version(store)
    path = Path(wanted)
    if path.is_file():
        spec = load_sweep(path)
        return spec.name, [Cell(**cell.row()) for cell in locate(store, cells(spec))]
    listed = read_cells(sweep_folder(store, wanted) / CELLS_FILE) if is_part(wanted) else None
    if listed is not None:
        return wanted, listed
    names = sweep_names(store)
    if not names or path.suffix in (".yaml", ".yml"):
        raise InputError(f"{wanted}: no such sweep file, and no sweep of that name in {store}")
    raise unknown("sweep", wanted, names, where=str(store))


def sweep_names(store: Path) -> list[str]:
    """Returns the names of the sweeps that were run in the store, sorted."""
    return sorted(path.parent.name for path in (store / SWEEPS_FOLDER).glob(f"*/{CELLS_FILE}"))
