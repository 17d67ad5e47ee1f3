"""The Ray that a sweep runs on: a new one on this machine, or one that is already running."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO, cast

from tensorrl.errors import InputError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise Ray holds messages back and prints them from another thread (see `_WithoutRayMessages`).
    "RAY_DEDUP_LOGS": "0",
    # Use Tune's older reports: the new ones print a table even if none is asked for.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The sweep asks its trials to write a checkpoint and stop; Tune would kill them.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that reserves no GPU knows so from its device.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# By default Ray gives its servers half a minute to start, which is too short on a machine at full load.
_START_TRIES = 4
_GONE_SECONDS = 30.0
_LOOK_SECONDS = 10.0
_OBJECT_STORE = 100 * 2**20
_MESSAGES_THREAD = "ray_listen_error_messages"


class RayLost(RuntimeError):
    """Ray did not start, or its last machine is gone, so the sweep cannot run."""


class Watchman:
    """Notices when Ray has no machine left. Tune would wait forever."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._alive = self._looked

    def look(self) -> None:
        """Checks from time to time whether any machine is alive.

        Raises:
            RayLost: no machine has been alive for half a minute.
        """
        import ray

        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if any(node["Alive"] for node in ray.nodes()):
            self._alive = now
        elif now - self._alive > _GONE_SECONDS:
            raise RayLost("Ray has lost its last machine; run the same command again to continue")


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray quietly for the duration of the block. Ray is shut down afterwards only if it was started here.

    If this process is already connected to a Ray, that one is used.

    Args:
        address: the address of a running Ray: `auto` for the one on this machine, or HOST:PORT. None takes
            `RAY_ADDRESS`; if that is unset, a new Ray is started.

    Raises:
        InputError: no Ray answers at the address.
        RayLost: the new Ray did not start.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune  # noqa: F401  (the loggers to be quieted are there once it is imported)

    with redirect_stdout(cast(TextIO, _WithoutRayMessages(sys.stdout))), _quiet_loggers():
        if ray.is_initialized():
            yield
            return
        if address:
            _connect(address)
        else:
            _start()
        try:
            yield
        finally:
            ray.shutdown()


def joins_ray(address: str | None) -> bool:
    """Returns whether `ray_session` would use a running Ray instead of starting one."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or (
        "ray" in sys.modules and sys.modules["ray"].is_initialized()
    )


def check_address(address: str | None) -> None:
    """Refuses an address that a sweep's driver cannot use.

    Raises:
        InputError: the address belongs to a Ray client server or to a dashboard.
    """
    if address and "://" in address:
        raise InputError(
            f"address {address} of Ray: a sweep's driver runs inside the cluster (allowed: auto, or HOST:PORT of a Ray "
            "that this machine belongs to; from outside use `tensorrl submit FILE --address http://HOST:8265`)"
        )


def _own_token() -> None:
    """Gives the Ray that this process starts a token that is valid only for this process.

    Otherwise Ray writes a token into the home folder. Every cluster that is started there later then asks for it, but
    Ray's own clients do not send it unless they are told to.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start() -> None:
    _own_token()
    import ray

    for left in reversed(range(_START_TRIES)):
        try:
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_OBJECT_STORE,
            )
        except Exception as error:
            ray.shutdown()
            if not left:
                raise RayLost(f"Ray did not start: {' '.join(str(error).split())[:200]}") from None
        else:
            return


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"address {address} of Ray: no Ray can be used there: {reason}") from None


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Keeps Ray's own reports of failed trials off the terminal, because the sweep's table has them."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] == "ray"]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _WithoutRayMessages:
    """Standard output without Ray's messages about dead workers, which Ray prints there at any log level.

    They would appear in the middle of a progress display or of JSON. The sweep reports such trials itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, unless it is such a message."""
        return len(text) if threading.current_thread().name == _MESSAGES_THREAD else self._stream.write(text)
