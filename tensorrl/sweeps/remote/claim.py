"""Claims: the lock on a cell if machines share a remote but no folder, in place of a lock on a file.

A claim is a file that its holder rewrites every few seconds. It only changes by compare-and-swap (`Remote.swap`), so
two machines never hold it at the same time, and a claim that was renewed in the meantime cannot be taken. A claim that
has not changed for too long is free. Its holder notices this first, because it counts from before its last write.
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
"""Seconds without a rewrite after which a claim is free, by the clock of the machine that looks."""
_SURE_SECONDS = 30.0
_MACHINE_FILE = ".machine"
_FREE: dict[str, Any] = {}
_log = logging.getLogger(__name__)


class Claim:
    """A claim on one name in a remote.

    Args:
        remote: the remote.
        name: the name of the claim's file.
        store: the store of this machine. A process locks a file there before it claims, so a claim from the same store
            belongs to a dead process.

    Attributes:
        lost: whether another machine took the claim.
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
        """Takes the claim, and waits for a dead holder's claim to expire. Returns False if another machine holds it.

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
        """Renews the claim; returns whether this machine still holds it.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        with self._turn:
            self.lost = self.lost or not self._swap(self._own)
            return not self.lost

    def keep(self) -> None:
        """Like `renew`, but never raises."""
        try:
            self.renew()
        except OSError as error:
            _log.info("the claim %s cannot be renewed: %s", self.name, error)

    @property
    def sure(self) -> bool:
        """Whether nobody else can have taken the claim by now, even if this machine was suspended."""
        return not self.lost and _now() - self._renewed < _SURE_SECONDS

    def release(self) -> None:
        """Frees the claim immediately. Never raises."""
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
        # Look, whatever the answer was: an answer may be lost, and a few imitations of S3 let two writers through.
        now = self.remote.look(self.name)
        if now is not None and now.content != content and _read(now).get("token") == self._token:
            # An earlier write by this claim, whose answer was lost.
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
    """Returns the seconds of a clock that also runs while the machine is suspended, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine(store: Path) -> str:
    """Returns a text that identifies this machine's store."""
    path = store / _MACHINE_FILE
    if not path.exists():
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
        draft.write_text(uuid.uuid4().hex)
        try:
            # Unlike a rename, a link does not overwrite a file that another process has created in the meantime.
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    # With the host's name, because machines may be made from the same image.
    return f"{path.read_text()}@{socket.gethostname()}"
