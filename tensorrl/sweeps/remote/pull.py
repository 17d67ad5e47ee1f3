"""`tensorrl pull`: copies the content of a remote into a local store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorrl.errors import InputError
from tensorrl.files import LockedError, file_lock
from tensorrl.sweeps.remote.cell_copy import CellCopy, Copy, bring_cell
from tensorrl.sweeps.remote.files import Remote, at_once
from tensorrl.sweeps.store.layout import VERSION_FILE, check_version, lock_file, open_store, version_text
from tensorrl.tracking.record import one_line
from tensorrl.trial.cell import SWEEPS_FOLDER
from tensorrl.trial.folder import TRIAL_FILE, read_json, read_result

_LEFT_THERE = ("tune/", "driver.json", "stop")


def pull(uri: str, store: Path, *, checkpoints: bool = False) -> dict[str, Any]:
    """Copies the cells and sweeps of a remote into a store, if they are further on than those in the store.

    A cell that a process of this machine runs is left alone.

    Args:
        uri: the remote's URI.
        store: the store, created if it does not exist.
        checkpoints: copy checkpoints, too: tens of MiB per cell.

    Returns:
        The number of `cells` in the remote, how many of them are `finished`, and the names of its `sweeps`.

    Raises:
        InputError: the remote cannot be read or holds no store, or the store here cannot be written to.
    """
    remote = Remote(uri)
    try:
        remote.check_bucket()
        if remote.read(VERSION_FILE) != version_text().encode():
            raise InputError(f"remote {remote.uri}: holds no store of this version of TensorRL (allowed: a --remote)")
        names = remote.names()
        check_version(store)
        open_store(store)
        cells = sorted({n.partition("/")[0] for n in names if n.endswith(f"/{TRIAL_FILE}") and not n.startswith(".")})
        at_once(lambda name: _bring(remote, store, name, checkpoints=checkpoints), cells)
        sweeps = _bring_sweeps(remote, store, names)
    except OSError as error:
        raise InputError(f"remote {remote.uri}: {one_line(error)}") from None
    finished = sum(read_result(store / name) is not None for name in cells)
    return {"cells": len(cells), "finished": finished, "sweeps": sweeps}


def _bring(remote: Remote, store: Path, name: str, *, checkpoints: bool) -> None:
    copy = CellCopy(remote, store, name)
    if not (store / name / TRIAL_FILE).is_file():
        copy.take([TRIAL_FILE])
    key = str((read_json(store / name / TRIAL_FILE) or {}).get("key", ""))
    with suppress(LockedError), file_lock(lock_file(store, key), wait=False):
        if checkpoints:
            copy.bring()
            if copy.finished and not copy.newest():
                copy.bring_checkpoints()
        bring_cell(remote, store, name)


def _bring_sweeps(remote: Remote, store: Path, names: list[str]) -> list[str]:
    sweeps: dict[str, list[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        sweep, _, file = rest.partition("/")
        if folder == SWEEPS_FOLDER and file and not file.startswith(_LEFT_THERE):
            sweeps.setdefault(sweep, []).append(file)
    for sweep, files in sweeps.items():
        Copy(remote, store, f"{SWEEPS_FOLDER}/{sweep}").take(files)
    return sorted(sweeps)
