"""A remote: one store for machines without a shared folder, in a bucket or in a folder that all of them mount.

A remote holds the same files as a store, under the same names, so a full copy of it is a store. Writes are atomic.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

from tensorrl.errors import InputError
from tensorrl.files import is_full
from tensorrl.sweeps.remote.kinds import Held, open_kind
from tensorrl.trial.names import inner
from tensorrl.uris import holds_secret, redact_uri

REMOTE_VARIABLE = "TENSORRL_REMOTE"
PATIENCE = 600.0
"""Seconds for which a sweep or a trial retries its remote before it gives up."""
_AT_ONCE = 16
_ENVIRONMENT = {
    # Otherwise Arrow's S3 client, with which Tune writes its own files, sends checksums in a form that few stores
    # besides Amazon's understand.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Remote:
    """The files of a remote, by relative names with slashes. No name can point outside the remote.

    Credentials and endpoints come from the usual environment variables of each kind of store (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, …).

    Args:
        uri: s3://BUCKET/PREFIX, gs://…, abfss://…, file:///FOLDER, or any URI that fsspec can read.

    Raises:
        InputError: the kind of URI is unknown, or the URI holds a password.
    """

    def __init__(self, uri: str) -> None:
        if holds_secret(uri):
            raise InputError(f"remote {redact_uri(uri)}: holds a password (allowed: credentials in the environment)")
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        self._kind = open_kind(uri)
        self._where = f"remote {uri}"

    def below(self, name: str) -> str:
        """Returns the URI of a folder in the remote."""
        parts = urlsplit(self.uri)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()

    def check_bucket(self) -> None:
        """Checks that the bucket exists, because a listing does not distinguish a missing bucket from an empty one.

        Raises:
            OSError: the bucket does not exist, or the remote does not answer or refuses.
        """
        self._kind.check()

    def read(self, name: str) -> bytes | None:
        """Returns a file's bytes, or None if there is no such file.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        held = self.look(name)
        return None if held is None else held.content

    def look(self, name: str) -> Held | None:
        """Returns a file in the form that `swap` takes, or None if there is no such file.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        return self._kind.look(inner(name, where=self._where))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        self._kind.write(inner(name, where=self._where), content)

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        """Writes a file if it has not changed since `look`: if several callers have seen the same state, one succeeds.

        Args:
            name: the file's name.
            content: the new content, different from all content written there before.
            held: the value that `look` returned.

        Returns:
            Whether the file was written. It may have been written even if the answer was lost.

        Raises:
            OSError: the remote does not answer or refuses, or can only be read.
        """
        return self._kind.swap(inner(name, where=self._where), content, held)

    def remove(self, name: str) -> None:
        """Removes a file if possible; a file that stays takes space but is never read."""
        with suppress(OSError):
            self._kind.remove(inner(name, where=self._where))

    def names(self, below: str = "") -> list[str]:
        """Returns the sorted names of all files below a folder of the remote; empty if there is no such folder.

        Raises:
            InputError: a name points outside the remote.
            OSError: the remote does not answer or refuses.
        """
        found = self._kind.names(inner(below, where=self._where) if below else "")
        return sorted(inner(name, where=self._where) for name in found)


def patiently(work: Callable[[], Result], *, seconds: float = PATIENCE, pause: float = 5.0) -> Result:
    """Calls `work`, and repeats it while the remote does not answer.

    Args:
        work: a function that is safe to repeat.
        seconds: how long to retry.
        pause: seconds between two tries.

    Raises:
        OSError: the error of the last try; raised without a retry if this machine's disk is full.
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
    """Calls `work` for many files in parallel, because each mostly waits for the network.

    Raises:
        Exception: the first error that `work` raised, after the other calls ended.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="remote") as pool:
        list(pool.map(work, names))
