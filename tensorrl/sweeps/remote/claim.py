"""Who runs a cell, where machines share a remote and no folder: what a lock on a file is where they do.

An object store has no locks. A claim is a file that its holder writes anew every few seconds; one that stays as it is
for longer belongs to nobody. Two that claim at once see it when they look again. Between a look and what follows lie
moments in which another may claim: see `copies` for what keeps cells whole then.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorrl.sweeps.remote.files import Remote

BEAT_SECONDS = 10.0
STALE_SECONDS = 45.0
"""A claim that is not written anew for so long, by the clock of whoever looks, is its holder's no longer."""
_SETTLE_SECONDS = 1.0
_MACHINE_FILE = ".machine"
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
        self._beat = 0

    def take(self, *, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Takes the claim, after waiting as long as a dead holder's lasts; returns False where its holder lives.

        Raises:
            OSError: the remote does not answer or refuses.
        """
        held = self._held()
        if held and held.get("store") != _machine(self._store):
            deadline = time.monotonic() + STALE_SECONDS
            while time.monotonic() < deadline:
                sleep(BEAT_SECONDS / 2)
                now = self._held()
                if not now:
                    break
                if now != held:
                    return False
        self._write()
        sleep(_SETTLE_SECONDS)
        return self._is_own(self._held())

    def keep(self) -> None:
        """Says that the holder lives, or notes that another took the claim. Never raises."""
        try:
            if not self._is_own(self._held()):
                self.lost = True
            elif not self.lost:
                self._write()
        except OSError as error:
            _log.info("the claim %s cannot be renewed: %s", self.name, error)

    def release(self) -> None:
        """Lets the next have it at once. Never raises."""
        try:
            if self._is_own(self._held()):
                self.remote.write(self.name, b"{}")
        except OSError as error:
            _log.info("the claim %s stays until it is stale: %s", self.name, error)

    def _write(self) -> None:
        self._beat += 1
        claim = {"store": _machine(self._store), "token": self._token, "beat": self._beat}
        self.remote.write(self.name, json.dumps(claim).encode())

    def _held(self) -> dict[str, Any]:
        try:
            held = json.loads(self.remote.read(self.name) or b"{}")
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}

    def _is_own(self, held: dict[str, Any]) -> bool:
        return held.get("token") == self._token


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
