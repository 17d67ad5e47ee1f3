"""The one way to write a file whole, the one lock between processes, and how a full disk is known.

A file is written under a temporary name beside its place, a *draft*, and renamed: whoever reads the place finds the old
content or the new one, also after a kill. A draft never counts as anything else: see `is_draft`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_END = ".draft"
_STEM_LETTERS = 40
_FULL_SAID = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path, *, sync: bool = True, keep_suffix: bool = False) -> Iterator[Path]:
    """Gives a draft's name; what the block wrote there, a file or a folder, takes the place of `path` when it ends.

    Where the block raises, the draft is removed and `path` stays as it was.

    Args:
        path: the place. A file there is replaced; a folder must not be there, unless it is empty.
        sync: wait until the disk has the content before it is renamed, and the new name after: what `path` then holds
            survives a power cut. Without it a power cut may leave an empty file.
        keep_suffix: let the draft's name end as `path` does, for a library that takes the format from the name.

    Raises:
        OSError: the draft cannot be renamed.
    """
    # No part of a long name: a draft's must stay within what a file system allows.
    name = f".{path.name[:_STEM_LETTERS]}.{uuid.uuid4().hex[:12]}{_END}{path.suffix if keep_suffix else ''}"
    draft = path.with_name(name)
    try:
        yield draft
        move(draft, path, sync=sync)
    except BaseException:
        remove(draft)
        raise


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes a file whole; see `replacing`.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path, sync=sync) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Writes a text in UTF-8, its line ends as they are; see `write_bytes`."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Writes a value as indented JSON with a last line end; see `write_bytes`."""
    write_text(path, json.dumps(value, indent=1) + "\n", sync=sync)


def move(draft: Path, path: Path, *, sync: bool = True) -> None:
    """Renames a finished file or folder to its place; see `replacing` for `sync`.

    The files of a folder must be on the disk already where that matters: of a folder, only its own entries are synced.

    Raises:
        OSError: it cannot be renamed.
    """
    if sync:
        sync_to_disk(draft)
    os.replace(draft, path)
    if sync:
        sync_to_disk(path.parent)


def open_plain(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a pipe or a device, whose end may never come, is not waited for.

    Raises:
        OSError: it is another kind of file, or cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Is no regular file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def sync_to_disk(path: Path) -> None:
    """Waits until the disk has what was written to a file, or the entries of a folder.

    Raises:
        OSError: the disk reports an error, such as being full.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_draft(path: Path) -> bool:
    """Returns whether a name is a draft's: one being written, or one that a kill left."""
    return _END in path.suffixes[-2:]


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that a kill left in a folder. Nobody else may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_draft(path):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a folder with all it holds, or a symbolic link but not what it leads to, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class LockedError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`; the system releases it when the process ends, however it ends.

    Args:
        path: the lock file, created where it is missing and left in place.
        wait: wait for another holder to let go, else raise at once.

    Raises:
        LockedError: another process holds it and `wait` is False.
        OSError: the file cannot be made.
    """
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{path.parent}: another process is at work here") from None
        yield


def is_full(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, says that a device has no space left.

    Libraries in C++ and Rust (Arrow, safetensors) say so in words only.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _FULL_NUMBERS:
            return True
        if any(words in str(current) for words in _FULL_SAID):
            return True
        current = current.__cause__ or current.__context__
    return False
