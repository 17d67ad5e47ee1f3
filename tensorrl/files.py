"""Atomic writes, the lock between processes, and the test for a full disk.

A file is written under a temporary name in the same folder, a *draft*, and then renamed. A reader therefore finds the
old content or the new content, even after a kill. A draft is never mistaken for another file: see `is_draft`.
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
    """Yields the path of a draft. When the block ends, the file or folder that it wrote there replaces `path`.

    If the block raises, the draft is removed and `path` does not change.

    Args:
        path: the destination. An existing file is replaced; an existing folder must be empty.
        sync: wait until the content is on the disk before the rename, and the new name after it. The new content then
            survives a power cut; otherwise a power cut may leave an empty file.
        keep_suffix: give the draft the suffix of `path`, for a library that takes the format from the name.

    Raises:
        OSError: the draft cannot be renamed.
    """
    # Only the start of a long name, because the file system limits the length of the draft's name.
    name = f".{path.name[:_STEM_LETTERS]}.{uuid.uuid4().hex[:12]}{_END}{path.suffix if keep_suffix else ''}"
    draft = path.with_name(name)
    try:
        yield draft
        move(draft, path, sync=sync)
    except BaseException:
        remove(draft)
        raise


def write_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes a file atomically; see `replacing`.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path, sync=sync) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Writes a text in UTF-8 without changing its line endings; see `write_bytes`."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Writes a value as indented JSON that ends with a newline; see `write_bytes`."""
    write_text(path, json.dumps(value, indent=1) + "\n", sync=sync)


def move(draft: Path, path: Path, *, sync: bool = True) -> None:
    """Renames a finished file or folder to its place; see `replacing` for `sync`.

    For a folder, only its entries are synced. If its files must survive a power cut, sync them before.

    Raises:
        OSError: the draft cannot be renamed.
    """
    if sync:
        sync_to_disk(draft)
    os.replace(draft, path)
    if sync:
        sync_to_disk(path.parent)


def open_plain(path: Path) -> BinaryIO:
    """Opens a regular file for reading. A pipe or a device is refused, because reading it may never end.

    Raises:
        OSError: the path is another kind of file, or cannot be opened.
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
    """Waits until a file's content, or a folder's entries, are on the disk.

    Raises:
        OSError: the disk reports an error, such as being full.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_draft(path: Path) -> bool:
    """Returns whether a path is a draft: one that is being written, or one that a kill left."""
    return _END in path.suffixes[-2:]


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that a kill left in a folder. No other process may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_draft(path):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a folder with its content, or a symbolic link (but not its target), if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class LockedError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`. The system releases the lock when the process ends for any reason.

    Args:
        path: the lock file, created if it does not exist, and left in place.
        wait: wait for another holder to release the lock; otherwise raise immediately.

    Raises:
        LockedError: another process holds the lock and `wait` is False.
        OSError: the file cannot be created.
    """
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{path.parent}: another process is at work here") from None
        yield


def is_full(error: BaseException) -> bool:
    """Returns whether an error, or a cause of it, says that a device has no space left.

    Libraries in C++ and Rust (Arrow, safetensors) only say so in the error's text.
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
