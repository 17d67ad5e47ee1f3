"""Copies cells with their checkpoints, and sweeps' own files, between a store and a remote.

A file is sent if it has changed since this process last sent or fetched it. A checkpoint's manifest is sent after the
files that it names, and a result after everything else, so a reader of the remote finds a complete cell or an earlier
state of it. Checkpoints carry digests: if two machines mixed their files anyway, the checkpoint counts as damaged and
the one before it is used.
"""

from __future__ import annotations

import logging
import posixpath
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorrl import files
from tensorrl.errors import InputError
from tensorrl.sweeps.remote.files import Remote, at_once
from tensorrl.tracking.memory import MEMORY_FILE
from tensorrl.trial.folder import (
    PROGRESS_FILE,
    RESULT_FILE,
    SPECTRA,
    STEP,
    STOPPED_FILE,
    TRIAL_FILE,
    read_lines,
    read_progress,
    spectrum_files,
)
from tensorrl.trial.manifest import CHECKPOINTS, FRAMES, MANIFEST, parse_manifest
from tensorrl.trial.names import inner_path

_RECORDS = (TRIAL_FILE, PROGRESS_FILE, STOPPED_FILE, MEMORY_FILE)
_KEPT = 2
_log = logging.getLogger(__name__)

_Signature = tuple[int, int, int]


class Copy:
    """A folder here and the folder of the same name in a remote.

    Args:
        remote: the remote.
        store: the store of this machine.
        name: the folder's name, relative to both.
    """

    def __init__(self, remote: Remote, store: Path, name: str) -> None:
        self.remote, self.name = remote, name
        self._store, self.folder = store, inner_path(store, name, where=f"remote {remote.uri}")
        # The files that are known to be the same here and in the remote.
        self._same: dict[str, _Signature] = {}

    def send(self, names: Iterable[str]) -> None:
        """Sends those of these files that changed here.

        Raises:
            FileNotFoundError: a file was removed in the meantime.
            OSError: the remote does not answer or refuses.
        """
        at_once(self._send, [name for name in names if self._same.get(name) != _signature(self.folder / name)])

    def take(self, names: Iterable[str], into: str = "") -> None:
        """Fetches files into this folder, or into its subfolder `into`. Files that the remote lacks are skipped.

        Raises:
            OSError: the remote does not answer or refuses, or this machine's disk does.
        """

        def bring(name: str) -> None:
            content = self.remote.read(f"{self.name}/{name}")
            if content is not None:
                inside = f"{self.name}/{into}/{name}" if into else f"{self.name}/{name}"
                _put(inner_path(self._store, inside, where=f"remote {self.remote.uri}"), content)

        at_once(bring, names)

    def _send(self, name: str) -> None:
        path = self.folder / name
        # Taken before the file is read, so a change in between is sent the next time.
        signature = _signature(path)
        self.remote.write(f"{self.name}/{name}", path.read_bytes())
        self._same[name] = signature

    def note(self, name: str) -> None:
        """Notes that a file is the same here and in the remote."""
        self._same[name] = _signature(self.folder / name)


class CellCopy(Copy):
    """A cell of this machine's store and of a remote.

    Attributes:
        finished: whether the remote was seen to hold the finished cell, which is then left as it is.
    """

    finished = False

    def bring(self) -> None:
        """Fetches the cell if the remote's is finished (then without checkpoints) or has made more steps.

        Raises:
            OSError: the remote does not answer or refuses, or this machine's disk does.
        """
        there = self._there()
        if TRIAL_FILE not in there:
            return
        self.finished = RESULT_FILE in there
        if not self.finished:
            newest = _checkpoints(there)[-_KEPT:]
            if not newest or newest[-1] <= self.newest():
                return
            self.bring_checkpoints(newest)
        self.bring_records()

    def bring_checkpoints(self, steps: Sequence[str] = ()) -> None:
        """Replaces the checkpoints here by those of the remote.

        Args:
            steps: the checkpoints' names; if empty, the newest two are fetched.
        """
        steps = steps or _checkpoints(self._there())[-_KEPT:]
        into = f".{CHECKPOINTS}.draft"
        shutil.rmtree(self.folder / into, ignore_errors=True)
        self.take([name for step in steps for name in self._named(step)], into)
        if not (self.folder / into / CHECKPOINTS).is_dir():
            return
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        files.move(self.folder / into / CHECKPOINTS, self.folder / CHECKPOINTS)
        (self.folder / into).rmdir()
        for name in self._here():
            self.note(name)

    def _named(self, step: str) -> list[str]:
        """Returns the names of the files of one of the remote's checkpoints."""
        manifest = f"{CHECKPOINTS}/{step}/{MANIFEST}"
        content = self.remote.read(f"{self.name}/{manifest}") or b""
        try:
            listed = parse_manifest(content, where=f"remote {self.remote.uri}: {self.name}/{manifest}")
        except InputError as error:
            _log.info("%s", error)
            return []
        return [manifest, *(posixpath.normpath(f"{CHECKPOINTS}/{step}/{name}") for name in listed)]

    def bring_records(self) -> None:
        """Fetches the trial's description, reports and spectra, and its result last.

        Raises:
            OSError: the remote does not answer or refuses, or this machine's disk does.
        """
        spectra = [name for name in self._there() if name.startswith(f"{SPECTRA}/")]
        self.take([*_RECORDS, *spectra])
        self.take([RESULT_FILE])

    def send_cell(self) -> None:
        """Sends what the remote lacks of the cell, and removes checkpoints there that the cell has dropped.

        Raises:
            FileNotFoundError: the trial removed an old checkpoint in the meantime; call again.
            OSError: the remote does not answer or refuses.
        """
        if self.finished or not (self.folder / TRIAL_FILE).is_file():
            return
        # Checked first: once the result exists, all other files of the trial are complete.
        result = (self.folder / RESULT_FILE).is_file()
        here = self._here()
        # Sent first, because a folder without it is not a trial's.
        self.send([TRIAL_FILE])
        manifests = [name for name in here if name.endswith(f"/{MANIFEST}")]
        self.send(set(here) - set(manifests))
        self.send(manifests)
        self.send_records()
        if result:
            self.send([RESULT_FILE])
        for name in self._there() if here else ():
            if name.startswith(f"{CHECKPOINTS}/") and name not in here:
                self.remote.remove(f"{self.name}/{name}")

    def send_records(self) -> None:
        """Sends the trial's description, its reports and its spectra.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        spectra = [f"{SPECTRA}/{path.name}" for path in spectrum_files(self.folder)]
        self.send([*spectra, *(name for name in _RECORDS if (self.folder / name).is_file())])

    def newest(self) -> str:
        """Returns the name of the newest checkpoint here; empty if there is none."""
        return max(_checkpoints(self._here()), default="")

    def _here(self) -> list[str]:
        """Returns the files of the cell's complete checkpoints. Frames are listed last, so every frame named exists."""
        found = sorted((self.folder / CHECKPOINTS).glob("[0-9]*/*"))
        frames = sorted((self.folder / CHECKPOINTS / FRAMES).glob("*.zst"))
        return [path.relative_to(self.folder).as_posix() for path in (*found, *frames)]

    def _there(self) -> list[str]:
        return [name.removeprefix(f"{self.name}/") for name in self.remote.names(self.name)]


def bring_cell(remote: Remote, store: Path, name: str) -> None:
    """Fetches a cell's description, reports and result if the remote's have more steps.

    Args:
        remote: the remote.
        store: the store of this machine, in which no process may run the cell at the same time.
        name: the cell's folder.

    Raises:
        OSError: the remote does not answer or refuses, or this machine's disk does.
    """
    folder = store / name
    if (folder / RESULT_FILE).is_file():
        return
    if remote.read(f"{name}/{RESULT_FILE}") is not None:
        CellCopy(remote, store, name).bring_records()
        return
    lines = remote.read(f"{name}/{PROGRESS_FILE}")
    trial = remote.read(f"{name}/{TRIAL_FILE}")
    if trial is not None and not (folder / TRIAL_FILE).is_file():
        _put(folder / TRIAL_FILE, trial)
    if lines is not None and _last_step(read_lines(lines)) > _last_step(read_progress(folder)):
        _put(folder / PROGRESS_FILE, lines)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)


def _last_step(lines: Sequence[Mapping[str, Any]]) -> int:
    return max((int(line[STEP]) for line in lines), default=0)


def _checkpoints(names: Iterable[str]) -> list[str]:
    """Returns the names of the checkpoints that are complete in this list of files, oldest first."""
    parts = [name.split("/") for name in names]
    return sorted(p[1] for p in parts if len(p) == 3 and p[0] == CHECKPOINTS and p[2] == MANIFEST and p[1].isdigit())


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
