"""Results as data: finished cells of a store as an export of small text files, and a store made of such an export.

EXPORT/
  export.json                          what it is
  cells/<name>.json                    a finished cell each, see `cell_file`
  sweeps/<name>/cells.json             a sweep's cells, those too that are not finished
  sweeps/<name>/sweep.yaml             the sweep, without MLflow's address

Exports merge, and so do imports: a cell that is there already stays as it is where its result is the same, and is
refused where it differs. Nothing is written before all of it is known to be good.
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
    """What an export says of a sweep.

    Attributes:
        name: its name.
        cells: its cells, in order, each with the name that its folder has by its own description.
        text: its sweep file; empty where it is not known.
    """

    name: str
    cells: Sequence[Cell]
    text: str


@dataclass(frozen=True)
class Outcome:
    """What an export or an import did.

    Attributes:
        new: names of the cells that were not there before.
        same: names of those that were.
        left_out: how many cells of the sweeps are not finished.
    """

    new: Sequence[str]
    same: Sequence[str]
    left_out: int


def export(source: str, out: Path, *, store: Path) -> Outcome:
    """Writes finished cells into an export, which is made or added to.

    Args:
        source: a store's folder; or a sweep of `store`, by name or file.
        out: the folder of the export: a new or empty one, or an export's.
        store: where a sweep is looked for.

    Raises:
        InputError: no such store or sweep; a damaged cell or export; a cell whose result is another in the export; a
            folder that cannot be written to or holds something else.
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
    """Makes a store of an export, or adds it to one: its cells count as finished there.

    Args:
        export_folder: the export.
        store: the store's folder, which is made where there is none.

    Raises:
        InputError: no export, or a damaged one; a cell whose result is another in the store, or that is run there now;
            a store that cannot be used.
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
    """Reads an export whole: its cells by key, in the order of their names, and its sweeps by name.

    Raises:
        InputError: it is no export, or damaged; a name in it leads out of it.
    """
    about = load_json(folder / EXPORT_FILE)
    if about is None:
        raise InputError(f"{folder}: is no export (allowed: a folder that `tensorrl export` wrote)")
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
            raise InputError(f"{path}: is no name of a sweep (allowed: letters, digits and . _ -)")
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
    """Keys that both have, with the same results.

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
    """One list of a sweep's cells from two: the later one's, then those of the earlier one that it has no others for.

    Raises:
        InputError: both list a finished cell of one agent, game and seed, with other settings.
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
