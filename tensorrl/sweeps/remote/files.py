"""A remote: where machines without a shared folder keep one store, in an object store or any other file system.

A remote holds what a store does, under the same names, so that copying it whole gives a store. Files appear whole:
object stores have it so, and elsewhere they are written under a temporary name and renamed.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tensorrl.errors import InputError
from tensorrl.files import is_full
from tensorrl.trial.names import inner

REMOTE_VARIABLE = "TENSORRL_REMOTE"
PATIENCE = 600.0
"""Seconds that a sweep or a trial goes without its remote before it gives up."""
_AT_ONCE = 16
_ALLOWED = "a URI such as s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///FOLDER"
_WITH_BUCKET = ("s3", "gs", "gcs", "abfs", "abfss", "az")
_ENVIRONMENT = {
    # Arrow's S3 client would send checksums in a form that few stores but Amazon's own understand.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Remote:
    """The files of a remote, by names relative to it, with slashes.

    Credentials and endpoints are taken from the environment, as each kind of store has it (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, …).

    Args:
        uri: what Arrow or fsspec knows as a file system: s3://BUCKET/PREFIX, gs://…, file:///…

    Raises:
        InputError: no file system is known by this URI, or it holds a password.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        parts = urlsplit(uri)
        if not parts.scheme or "://" not in uri:
            raise InputError(f"remote {uri!r}: is no URI (allowed: {_ALLOWED})")
        if "@" in parts.netloc:
            raise InputError("remote: holds a user or a password (allowed: credentials by the environment)")
        if parts.scheme in _WITH_BUCKET and not parts.netloc:
            raise InputError(f"remote {uri}: names no bucket (allowed: {_ALLOWED})")
        self._files, root = _file_system(uri)
        self._root = root.rstrip("/")
        self._local = self._files.type_name == "local"

    def below(self, name: str) -> str:
        """Returns the URI of a folder in the remote."""
        parts = urlsplit(self.uri)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()

    def check_bucket(self) -> None:
        """Looks for the bucket, which in listings cannot be told from an empty one.

        Raises:
            OSError: there is none, or the remote does not answer or refuses.
        """
        from pyarrow import fs

        bucket = self._root.partition("/")[0]
        if not self._local and bucket and self._files.get_file_info(bucket).type == fs.FileType.NotFound:
            raise FileNotFoundError(f"there is no bucket {bucket}")

    def read(self, name: str) -> bytes | None:
        """Returns a file's bytes, or None where there is no such file.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        try:
            with self._files.open_input_stream(self._path(name), compression=None) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, which appears whole or not at all.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        path = self._path(name)
        draft = path
        if self._local:
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            draft = f"{path}.{uuid.uuid4().hex}.draft"
        # Arrow would compress what is named .zst, and expand it.
        with self._files.open_output_stream(draft, compression=None) as stream:
            stream.write(content)
        if draft != path:
            self._files.move(draft, path)

    def remove(self, name: str) -> None:
        """Removes a file where it can: what stays costs space and is never read."""
        with suppress(OSError):
            self._files.delete_file(self._path(name))

    def names(self, below: str = "") -> list[str]:
        """Returns the names of all files below a folder of the remote, sorted; none where there is no such folder.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        from pyarrow import fs

        start = self._path(below) if below else self._root
        found = self._files.get_file_info(fs.FileSelector(start, allow_not_found=True, recursive=True))
        above = len(self._root) + 1 if self._root else 0
        names = (info.path[above:] for info in found if info.type == fs.FileType.File)
        return sorted(inner(name, where=f"remote {self.uri}") for name in names if not name.endswith(".draft"))

    def _path(self, name: str) -> str:
        inner(name, where=f"remote {self.uri}")
        return f"{self._root}/{name}" if self._root else name


def _file_system(uri: str) -> tuple[Any, str]:
    from pyarrow import fs
    from pyarrow.lib import ArrowException

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Arrow's S3 client so sends a small file by one request in the place of three.
    option = ("&" if "?" in uri else "?") + "allow_delayed_open=true" if uri.startswith("s3://") else ""
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(uri + option)
        return found
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    try:
        import fsspec

        files, path = fsspec.core.url_to_fs(uri)
    except Exception as error:  # each of its many file systems fails in its own way
        other = " ".join(str(error).split())
        raise InputError(f"remote {uri}: {reason}; fsspec: {other} (allowed: {_ALLOWED})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(files)), path


def patiently(work: Callable[[], Result], *, seconds: float = PATIENCE, pause: float = 5.0) -> Result:
    """Does work with a remote, again and again while that does not answer.

    Args:
        work: what is safe to repeat.
        seconds: for how long to try.
        pause: seconds between two tries.

    Raises:
        OSError: the last try's, or at once where this machine's disk is full.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except OSError as error:
            if is_full(error) or time.monotonic() > deadline:
                raise
            _log.info("%s; tried again", error)
            time.sleep(pause)


def at_once(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Does work for many files side by side: each waits for the network most of the time.

    Raises:
        Exception: the first that `work` raised, after the others ended.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="remote") as pool:
        list(pool.map(work, names))
