"""A trial's folder: the names and formats of its files, and the functions that read them.

    trial.json         the description of the trial
    progress.jsonl     one line per report
    checkpoints/       see `tensorrl.trial.checkpoints` and `tensorrl.trial.manifest`
    spectra/           see `tensorrl.trial.spectra`
    tensorboard/       where it was asked for: the reports as event files, see `tensorrl.tracking.tensorboard`
    result.json        at the end: the description and the final figures
    stopped.json       if a sweep's scheduler stopped the trial early: when, and because of which figure
    .train.lock        held by the process that trains

Readers never assume that the writer has finished. A line of reports counts if it ends with a line feed and holds a JSON
object with an integer `agent_steps`. Any other line, cut off by a kill or damaged later, is skipped, and the lines
around it count. When a trial resumes, the reports after its checkpoint are removed; they are written again with the
same figures.

Each file has two readers: `load_…` raises `DamagedFile` if the file exists but cannot be read; `read_…` treats such a
file as missing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from tensorrl import files
from tensorrl.errors import InputError

TRIAL_FILE = "trial.json"
PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
STOPPED_FILE = "stopped.json"
LOCK_FILE = ".train.lock"
SPECTRA = "spectra"
TENSORBOARD = "tensorboard"
STEP = "agent_steps"
_TAIL = 16_384
_MOST_BYTES = 256 << 20
"""Of a file that is read as a whole. No trial writes one of even a tenth of this."""
_NONE = (FileNotFoundError, NotADirectoryError)
_TEXTS = ("game", "variant")
_NUMBERS = ("seed", "steps", "coefficients", "compression_ratio", "score", "final_score")
_OBJECTS = ("settings", "network")


class DamagedFile(InputError):
    """A file that exists but does not hold what it should. The message is one line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: is damaged ({reason})")
        self.path = path


def load_json(path: Path) -> dict[str, Any] | None:
    """Returns the object that a file holds, or None if there is no such file.

    Raises:
        DamagedFile: the file cannot be read, or holds no JSON object.
    """
    try:
        with files.open_plain(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise OSError(f"larger than {_MOST_BYTES >> 20} MiB")
            content = json.loads(file.read())
    except _NONE:
        return None
    except OSError as error:
        raise DamagedFile(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise DamagedFile(path, "no JSON") from None
    if not isinstance(content, dict):
        raise DamagedFile(path, f"a JSON {type(content).__name__} instead of an object")
    return content


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object that a file holds, or None if the file is missing or damaged."""
    try:
        return load_json(path)
    except DamagedFile:
        return None


def load_trial(directory: Path) -> dict[str, Any] | None:
    """Returns the description of the trial in a folder, or None if there is none.

    Raises:
        DamagedFile: the description exists but cannot be read.
    """
    return _load(directory / TRIAL_FILE)


def read_trial(directory: Path) -> dict[str, Any] | None:
    """Returns the description of the trial in a folder, or None if it is missing or damaged."""
    try:
        return load_trial(directory)
    except DamagedFile:
        return None


def load_result(directory: Path) -> dict[str, Any] | None:
    """Returns the final figures of the trial in a folder, or None while it is not finished.

    Raises:
        DamagedFile: the figures or the description cannot be read, or the figures belong to another trial than the
            folder describes.
    """
    result = _load(directory / RESULT_FILE)
    if result is None:
        return None
    trial = load_trial(directory)
    if trial is None or result["key"] != trial["key"]:
        raise DamagedFile(directory / RESULT_FILE, f"the result of another trial, not of the one in {TRIAL_FILE}")
    return result


def read_result(directory: Path) -> dict[str, Any] | None:
    """Returns the final figures of the trial in a folder, or None if they are missing or damaged."""
    try:
        return load_result(directory)
    except DamagedFile:
        return None


def _load(path: Path) -> dict[str, Any] | None:
    content = load_json(path)
    if content is None:
        return None
    if not isinstance(content.get("key"), str):
        raise DamagedFile(path, "no key of a trial")
    for names, kind in ((_TEXTS, str), (_NUMBERS, float), (_OBJECTS, dict)):
        for name in names:
            if name in content and not (is_number(content[name]) if kind is float else isinstance(content[name], kind)):
                raise DamagedFile(path, f"{name} is {str(content[name])[:40]!r}")
    return content


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_progress(directory: Path) -> list[dict[str, Any]]:
    """Returns the valid lines of a trial's reports, in the order of the file."""
    return read_lines(_read_bytes(directory / PROGRESS_FILE))


def read_lines(content: bytes) -> list[dict[str, Any]]:
    """Returns the valid lines of a report file's content."""
    return [line for _, line in _good_lines(content)]


def last_report(directory: Path) -> dict[str, Any]:
    """Returns the last valid line of a trial's reports, from the file's end only; empty if there is none."""
    tail = _read_bytes(directory / PROGRESS_FILE, last=_TAIL)
    # What the tail begins with may be the end of a line, which holds no object.
    return next((line for _, line in reversed(list(_good_lines(tail)))), {})


def add_report(directory: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to a trial's reports.

    Raises:
        OSError: the line cannot be written; a part of it may have been.
    """
    with (directory / PROGRESS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(line)) + "\n")


def sync_reports(directory: Path) -> None:
    """Waits until the disk has a trial's reports: a checkpoint must not outlive reports that come before it."""
    if (directory / PROGRESS_FILE).exists():
        files.sync_to_disk(directory / PROGRESS_FILE)


def cut_reports(directory: Path, steps: int) -> None:
    """Removes the reports after an agent step, which will be written again, and invalid lines."""
    path = directory / PROGRESS_FILE
    if path.exists():
        kept = [text for text, line in _good_lines(_read_bytes(path)) if line[STEP] <= steps]
        files.write_bytes(path, b"".join(text + b"\n" for text in kept))


def _good_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for text in content.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        # The type, not what is derived from it: true is no number of steps.
        if isinstance(line, dict) and type(line.get(STEP)) is int and line[STEP] >= 0:
            yield text, line


def _read_bytes(path: Path, *, last: int | None = None) -> bytes:
    """Returns a file's content or its last bytes; empty if the file is missing or cannot be read."""
    try:
        with files.open_plain(path) as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            return file.read(_MOST_BYTES)
    except OSError:
        return b""


def find_trials(directory: Path) -> Iterator[Path]:
    """Yields the folders at and below a folder that hold a trial, damaged ones included, in the order of their paths.

    Symbolic links are followed, but each folder is yielded once. Hidden folders are skipped.
    """
    seen: set[tuple[int, int]] = set()
    for name, below, names in os.walk(directory, followlinks=True):
        try:
            status = Path(name).stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        holds = TRIAL_FILE in names or TRIAL_FILE in below
        below[:] = sorted(each for each in below if not each.startswith("."))
        if holds:
            yield Path(name)


def is_in_use(directory: Path) -> bool:
    """Returns whether a process trains in a folder now."""
    lock = directory / LOCK_FILE
    if not lock.exists():
        return False
    try:
        with files.file_lock(lock, wait=False):
            return False
    except files.LockedError:
        return True


def spectrum_files(directory: Path) -> list[Path]:
    """Returns the files of a trial's spectra, by agent steps."""
    return sorted(path for path in (directory / SPECTRA).glob("*.npz") if path.stem.isdigit())


def modified_ms(path: Path) -> int | None:
    """Returns when a file was last written, in milliseconds since the epoch, or None where it does not exist."""
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except _NONE:
        return None
