"""Who runs a cell, where machines share a remote and no folder: what a lock on a file is where they do.

A claim is a file that its holder writes anew every few seconds. It changes by compare-and-swap alone (`Remote.swap`):
at no moment two hold it, and nobody's is taken that was renewed meanwhile. One that stays as it is for longer belongs
to nobody. Its holder knows that before anybody else does, because it counts from before it last wrote.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.kinds import Held

BEAT_SECONDS = 10.0
STALE_SECONDS = 45.0
"""A claim that is not written anew for so long, by the clock of whoever looks, is its holder's no longer."""
_SURE_SECONDS = 30.0
_MACHINE_FILE = ".machine"
_FREE: dict[str, Any] = {}
_log = logging.getLogger(__name__)


class Claim:
    """A claim on one name in a remote.

    Args:
        remote: the remote.
        name: of the claim's file.
        store: the store of this machine. Whoever shares it holds a lock on a file there before it claims, so that a
            claim from the same store is a dead process's.

    Attributes:
        lost: another took it meanwhile.
    """

    def __init__(self, remote: Remote, name: str, store: Path) -> None:
        self.remote, self.name = remote, name
        self.lost = False
        self._store = store
        self._token = uuid.uuid4().hex
        self._own: Held | None = None
        self._renewed = float("-inf")
        self._turn = threading.Lock()

    def take(self, *, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Takes the claim, after waiting as long as a dead holder's lasts; returns False where another has it.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        held = self.remote.look(self.name)
        if self._is_others(held):
            deadline = time.monotonic() + STALE_SECONDS
            while time.monotonic() < deadline:
                sleep(BEAT_SECONDS / 2)
                now = self.remote.look(self.name)
                if self._is_others(now) and now != held:
                    return False
                held = now
                if not self._is_others(held):
                    break
        with self._turn:
            return self._swap(held)

    def renew(self) -> bool:
        """Says that the holder lives; returns whether the claim is still this one's.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        with self._turn:
            self.lost = self.lost or not self._swap(self._own)
            return not self.lost

    def keep(self) -> None:
        """As `renew`, but never raises."""
        try:
            self.renew()
        except OSError as error:
            _log.info("the claim %s cannot be renewed: %s", self.name, error)

    @property
    def sure(self) -> bool:
        """Whether nobody else can have taken it by now, however long this machine slept."""
        return not self.lost and _now() - self._renewed < _SURE_SECONDS

    def release(self) -> None:
        """Lets the next have it at once. Never raises."""
        with self._turn:
            try:
                if not self.lost and self._own is not None:
                    self.remote.swap(self.name, json.dumps(_FREE).encode(), self._own)
            except OSError as error:
                _log.info("the claim %s stays until it is stale: %s", self.name, error)

    def _swap(self, held: Held | None) -> bool:
        started = _now()
        content = json.dumps({"store": _machine(self._store), "token": self._token, "beat": uuid.uuid4().hex}).encode()
        self.remote.swap(self.name, content, held)
        # Whatever was answered: an answer may be lost, and a few imitations of S3 let two writers through at once.
        now = self.remote.look(self.name)
        if now is not None and now.content != content and _read(now).get("token") == self._token:
            # An earlier writing of this one's, whose answer was lost.
            self.remote.swap(self.name, content, now)
            now = self.remote.look(self.name)
        if now is None or now.content != content:
            return False
        self._own, self._renewed = now, started
        return True

    def _is_others(self, held: Held | None) -> bool:
        claim = _read(held)
        return bool(claim) and claim.get("store") != _machine(self._store)


def _read(held: Held | None) -> dict[str, Any]:
    try:
        claim = json.loads(held.content) if held is not None else _FREE
    except ValueError:
        return _FREE
    return claim if isinstance(claim, dict) else _FREE


def _now() -> float:
    """Seconds of a clock that also goes on while this machine sleeps, where it has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine(store: Path) -> str:
    """Returns what tells this machine's store from others."""
    path = store / _MACHINE_FILE
    if not path.exists():
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
        draft.write_text(uuid.uuid4().hex)
        try:
            # Unlike a rename, a link leaves what another process has put there meanwhile.
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    # With the name, for machines made from one image.
    return f"{path.read_text()}@{socket.gethostname()}"
