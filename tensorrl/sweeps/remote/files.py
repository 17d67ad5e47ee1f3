"""A remote: where machines without a shared folder keep one store, in a bucket or a folder that all of them mount.

A remote holds what a store does, under the same names, so that copying it whole gives a store. Files appear whole.
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
from tensorrl.uris import holds_secret

REMOTE_VARIABLE = "TENSORRL_REMOTE"
PATIENCE = 600.0
"""Seconds that a sweep or a trial goes without its remote before it gives up."""
_AT_ONCE = 16
_ENVIRONMENT = {
    # Arrow's S3 client, by which Tune writes its own files, would send checksums in a form that few stores but Amazon's
    # own understand.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Remote:
    """The files of a remote, by names relative to it, with slashes. No name leads out of it.

    Credentials and endpoints are taken from the environment, as each kind of store has it (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL`, …).

    Args:
        uri: s3://BUCKET/PREFIX, gs://…, abfss://…, file:///FOLDER; or what fsspec can read.

    Raises:
        InputError: nothing is known by this URI, or it holds a password.
    """

    def __init__(self, uri: str) -> None:
        if holds_secret(uri):
            raise InputError(f"remote {uri}: holds a password (allowed: credentials by the environment)")
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
        """Looks for the bucket, which in listings cannot be told from an empty one.

        Raises:
            OSError: there is none, or the remote does not answer or refuses.
        """
        self._kind.check()

    def read(self, name: str) -> bytes | None:
        """Returns a file's bytes, or None where there is no such file.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        held = self.look(name)
        return None if held is None else held.content

    def look(self, name: str) -> Held | None:
        """Returns a file as `swap` takes it, or None where there is no such file.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        return self._kind.look(inner(name, where=self._where))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, which appears whole or not at all.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        self._kind.write(inner(name, where=self._where), content)

    def swap(self, name: str, content: bytes, held: Held | None) -> bool:
        """Writes a file if it is still as it was: of all who looked at one moment, one gets through.

        Args:
            name: the file's.
            content: unlike any that was written there before.
            held: what `look` returned.

        Returns:
            Whether it was written. Where an answer was lost it may be there all the same.

        Raises:
            OSError: the remote does not answer or refuses, or can only be read.
        """
        return self._kind.swap(inner(name, where=self._where), content, held)

    def remove(self, name: str) -> None:
        """Removes a file where it can: what stays costs space and is never read."""
        with suppress(OSError):
            self._kind.remove(inner(name, where=self._where))

    def names(self, below: str = "") -> list[str]:
        """Returns the names of all files below a folder of the remote, sorted; none where there is no such folder.

        Raises:
            InputError: a name leads out of the remote.
            OSError: the remote does not answer or refuses.
        """
        found = self._kind.names(inner(below, where=self._where) if below else "")
        return sorted(inner(name, where=self._where) for name in found)


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
