"""Exports the finished cells of a store as small text files, and imports them into a store.

EXPORT/
  export.json                          the format of the export
  cells/<name>.json                    one finished cell, see `cell_file`
  sweeps/<name>/cells.json             a sweep's cells, unfinished ones included
  sweeps/<name>/sweep.yaml             the sweep, without MLflow's address

Exports and imports can be merged: a cell that exists already stays as it is if its result is the same, and is refused
if its result differs. Everything is checked before anything is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tensorrl.errors import InputError
from tensorrl.files import LockedError, file_lock, write_text
from tensorrl.sweeps.grid.files import load_sweep, sweep_yaml
from tensorrl.sweeps.store.cell_file import SUFFIX, CellFile, differences, parse, read_cell, write_folder
from tensorrl.sweeps.store.layout import (
    SWEEP_FILE,
    VERSION,
    check_version,
    find_folder,
    find_sweep,
    lock_file,
    open_store,
    sweep_folder,
    sweep_names,
)
from tensorrl.sweeps.store.report import public_text
from tensorrl.trial.cell import CELLS_FILE, Cell, CellStatus, cell_status, read_cells
from tensorrl.trial.folder import find_trials, load_json, load_result, load_trial
from tensorrl.trial.names import inner_part, inner_path

FORMAT = "tensorrl-export/1"
EXPORT_FILE = "export.json"
CELLS_FOLDER = "cells"
SWEEPS_FOLDER = "sweeps"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Sweep:
    """A sweep in an export.

    Attributes:
        name: the sweep's name.
        cells: the sweep's cells, in order; each cell's folder has the name from its own description.
        text: the text of the sweep file; empty if it is not known.
    """

    name: str
    cells: Sequence[Cell]
    text: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of an export or an import.

    Attributes:
        new: names of the cells that were added.
        same: names of the cells that were there before.
        left_out: number of the sweeps' cells that are not finished.
    """

    new: Sequence[str]
    same: Sequence[str]
    left_out: int


def export(source: str, out: Path, *, store: Path) -> Outcome:
    """Writes finished cells to an export, which is created if it does not exist.

    Args:
        source: a store's folder, or a sweep of `store` by name or file.
        out: the folder of the export: new, empty, or an existing export.
        store: the store in which a sweep is looked up.

    Raises:
        InputError: there is no such store or sweep; a cell or the export is damaged; the export has another result
            of a cell; the folder cannot be written to or holds something else.
    """
    found, sweeps = _from_store(Path(source)) if _is_store(Path(source)) else _from_sweep(source, store)
    held = read_export(out) if out.exists() and any(out.iterdir()) else ({}, {})
    same = _agreeing(found, held[0], str(out))
    merged = [_merge(held[1].get(sweep.name), sweep, {**held[0], **found}, str(out)) for sweep in sweeps]
    try:
        for folder in (out / CELLS_FOLDER, *(out / SWEEPS_FOLDER / sweep.name for sweep in merged)):
            folder.mkdir(parents=True, exist_ok=True)
        write_text(out / EXPORT_FILE, json.dumps({"format": FORMAT}) + "\n")
        for key, cell in found.items():
            if key not in same:
                write_text(out / CELLS_FOLDER / (cell.name + SUFFIX), cell.text())
        for sweep in merged:
            _write_sweep(out / SWEEPS_FOLDER / sweep.name, {"name": sweep.name}, sweep)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror or error})") from None
    return _outcome(found, same, merged)


def import_(export_folder: Path, store: Path) -> Outcome:
    """Adds the cells of an export to a store, where they count as finished.

    Args:
        export_folder: the export.
        store: the store's folder, which is created if it does not exist.

    Raises:
        InputError: the folder is not an export, or is damaged; the store has another result of a cell, or runs the
            cell now; the store cannot be used.
    """
    found, sweeps = read_export(export_folder)
    check_version(store)
    places = {key: find_folder(store, key) or cell.name for key, cell in found.items()}
    held = {}
    for key, place in places.items():
        trial = load_trial(store / place)
        if trial is not None and trial["key"] != key:
            raise InputError(f"{store / place}: holds another trial (allowed: another store, with --out)")
        if load_result(store / place) is not None:
            held[key] = read_cell(_status(found[key], store, place))
    same = _agreeing(found, held, str(store))
    merged = []
    for sweep in sweeps.values():
        listed = [replace(cell, folder=places.get(cell.key, cell.folder)) for cell in sweep.cells]
        before = read_cells(sweep_folder(store, sweep.name) / CELLS_FILE)
        known = Sweep(sweep.name, before, "") if before else None
        merged.append(_merge(known, replace(sweep, cells=listed), {**held, **found}, str(store)))
    open_store(store)
    try:
        missing = [key for key in found if key not in same]
        for key in missing:
            with file_lock(lock_file(store, key), wait=False):
                pass
        for key in missing:
            with file_lock(lock_file(store, key), wait=False):
                write_folder(found[key], store / places[key])
        for sweep in merged:
            folder = sweep_folder(store, sweep.name)
            folder.mkdir(parents=True, exist_ok=True)
            content = {"version": VERSION, "name": sweep.name, "experiment": sweep.name}
            _write_sweep(folder, content, sweep)
    except LockedError:
        raise InputError(f"{store}: a cell of {export_folder} is being run there; import it when it is done") from None
    except OSError as error:
        raise InputError(f"--out {store}: cannot be written to ({error.strerror or error})") from None
    return _outcome(found, same, merged)


def read_export(folder: Path) -> tuple[dict[str, CellFile], dict[str, Sweep]]:
    """Reads a whole export: its cells by key, in the order of their names, and its sweeps by name.

    Raises:
        InputError: the folder is not an export, or is damaged; a name in it points outside the folder.
    """
    about = load_json(folder / EXPORT_FILE)
    if about is None:
        raise InputError(f"{folder}: is not an export (allowed: a folder that `tensorrl export` wrote)")
    if about.get("format") != FORMAT:
        raise InputError(f"{folder / EXPORT_FILE}: is of format {str(about.get('format'))[:80]!r} (allowed: {FORMAT})")
    found: dict[str, CellFile] = {}
    for path in _entries(folder, CELLS_FOLDER):
        if path.suffix != SUFFIX:
            continue
        cell = parse(_read(path), where=str(path))
        if path.name != cell.name + SUFFIX or cell.key in found:
            raise InputError(f"{path}: is damaged (it holds the cell {cell.name})")
        found[cell.key] = cell
    sweeps = {}
    for path in _entries(folder, SWEEPS_FOLDER):
        if not _NAME.fullmatch(path.name):
            raise InputError(f"{path}: is not a valid name of a sweep (allowed: letters, digits and . _ -)")
        listed = read_cells(inner_path(path, CELLS_FILE, where=str(path)))
        if listed is None:
            raise InputError(f"{path}: is damaged (no {CELLS_FILE})")
        file = inner_path(path, SWEEP_FILE, where=str(path))
        text = _read(file).decode(errors="replace") if file.exists() else ""
        sweeps[path.name] = Sweep(path.name, listed, text)
    return found, sweeps


def _entries(folder: Path, part: str) -> list[Path]:
    place = inner_path(folder, part, where=str(folder))
    names = sorted(path.name for path in place.iterdir() if not path.name.startswith(".")) if place.is_dir() else []
    return [inner_path(place, inner_part(name, where=str(place)), where=str(place)) for name in names]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _is_store(path: Path) -> bool:
    return path.is_dir() and next(find_trials(path), None) is not None


def _from_store(store: Path) -> tuple[dict[str, CellFile], list[Sweep]]:
    check_version(store)
    found = {}
    for place in find_trials(store):
        trial = load_trial(place)
        if place.parent == store and trial is not None and load_result(place) is not None:
            cell = read_cell(_status_of(trial, place))
            found[cell.key] = cell
    return found, [_sweep(name, find_sweep(store, name)[1], store, found) for name in sweep_names(store)]


def _from_sweep(wanted: str, store: Path) -> tuple[dict[str, CellFile], list[Sweep]]:
    name, listed = find_sweep(store, wanted)
    statuses = [cell_status(cell, store) for cell in listed]
    for status in statuses:
        if status.state == "damaged":
            raise InputError(status.error[0])
    found = {status.key: read_cell(status) for status in statuses if status.state == "finished"}
    sweep = _sweep(name, listed, store, found)
    if Path(wanted).is_file():
        sweep = replace(sweep, text=public_text(sweep_yaml(load_sweep(Path(wanted)))))
    return found, [sweep]


def _sweep(name: str, listed: Iterable[Cell], store: Path, found: Mapping[str, CellFile]) -> Sweep:
    cells = [replace(cell, folder=found[cell.key].name) if cell.key in found else cell for cell in listed]
    file = sweep_folder(store, name) / SWEEP_FILE
    return Sweep(name, cells, public_text(_read(file).decode(errors="replace")) if file.exists() else "")


def _agreeing(found: Mapping[str, CellFile], held: Mapping[str, CellFile], where: str) -> set[str]:
    """Returns the keys that both have, after checking that their results are the same.

    Raises:
        InputError: a result differs.
    """
    both = found.keys() & held.keys()
    for key in sorted(both, key=lambda key: found[key].name):
        names = differences(found[key], held[key])
        if names:
            was, is_ = (str(each.outcome[names[0]])[:40] for each in (held[key], found[key]))
            raise InputError(
                f"{where}: has another result of {found[key].name}: {names[0]} is {was} there and {is_} here "
                "(allowed: the same result, or another folder)"
            )
    return set(both)


def _merge(before: Sweep | None, after: Sweep, finished: Mapping[str, CellFile], where: str) -> Sweep:
    """Merges two lists of a sweep's cells: the later one, then the earlier one's cells that it does not replace.

    Raises:
        InputError: both list a finished cell of the same agent, game and seed, with different settings.
    """
    if before is None:
        return after
    if {cell.key for cell in before.cells} >= {cell.key for cell in after.cells}:
        return replace(before, text=before.text or after.text)
    keys = {cell.key for cell in after.cells}
    places = {(cell.label, cell.game, cell.seed, cell.steps): cell for cell in after.cells}
    kept = []
    for cell in before.cells:
        other = places.get((cell.label, cell.game, cell.seed, cell.steps))
        if cell.key in keys:
            continue
        if other is None:
            kept.append(cell)
        elif cell.key in finished:
            raise InputError(
                f"{where}: sweep {after.name} has {cell.label} on {cell.game}, seed {cell.seed}, finished with other "
                f"settings ({cell.folder}; here {other.folder}) (allowed: another folder, or another name of the sweep)"
            )
    return replace(after, cells=[*after.cells, *kept])


def _write_sweep(folder: Path, content: Mapping[str, object], sweep: Sweep) -> None:
    lines = ",\n".join(json.dumps(cell.row()) for cell in sweep.cells)
    head = json.dumps(dict(content)).removesuffix("}")
    write_text(folder / CELLS_FILE, f'{head}, "cells": [\n{lines}\n]}}\n')
    if sweep.text:
        write_text(folder / SWEEP_FILE, sweep.text)


def _status(cell: CellFile, store: Path, place: str) -> CellStatus:
    return replace(_status_of(cell.trial, store / place))


def _status_of(trial: Mapping[str, object], place: Path) -> CellStatus:
    names = ("key", "game", "variant", "seed", "steps")
    try:
        values = {name: trial[name] for name in names}
    except KeyError as error:
        raise InputError(f"{place}: is damaged (no {error.args[0]} in its description)") from None
    return cell_status(Cell(folder=place.name, **values), place.parent)  # type: ignore[arg-type]


def _outcome(found: Mapping[str, CellFile], same: set[str], sweeps: Iterable[Sweep]) -> Outcome:
    names = {key: cell.name for key, cell in found.items()}
    listed = {cell.key for sweep in sweeps for cell in sweep.cells}
    return Outcome(
        new=sorted(name for key, name in names.items() if key not in same),
        same=sorted(names[key] for key in same),
        left_out=len(listed - found.keys()),
    )
