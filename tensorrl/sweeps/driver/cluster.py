"""The Ray that a sweep runs on: one of its own in this machine, or one that is running."""

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
    # Without it, Ray keeps notices back and prints them from another thread (see `_WithoutRayMessages`).
    "RAY_DEDUP_LOGS": "0",
    # Tune's older reports: those that replaced them print a table even where none is asked for.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The sweep asks its trials to checkpoint and leave; Tune would end them.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that reserves no GPU is told by its device that it has none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray gives its servers half a minute to start, which a machine at full load may not let them have.
_START_TRIES = 4
_GONE_SECONDS = 30.0
_LOOK_SECONDS = 10.0
_OBJECT_STORE = 100 * 2**20
_MESSAGES_THREAD = "ray_listen_error_messages"


class RayLost(RuntimeError):
    """Ray did not start, or its last machine is gone: nothing of the sweep can run any more."""


class Watchman:
    """Notices that Ray has no machine left, over which Tune would wait for ever."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._alive = self._looked

    def look(self) -> None:
        """Looks now and then whether any machine is alive.

        Raises:
            RayLost: none has been for half a minute.
        """
        import ray

        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if any(node["Alive"] for node in ray.nodes()):
            self._alive = now
        elif now - self._alive > _GONE_SECONDS:
            raise RayLost("Ray has lost its last machine; the same command goes on from the trials' checkpoints")


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray for the length of the block: quietly, and ending it only where it was started here.

    A Ray that this process is connected to already is used as it is.

    Args:
        address: of a running Ray: `auto` for the one of this machine, or HOST:PORT. None takes `RAY_ADDRESS`, and
            where that is unset starts a Ray of its own.

    Raises:
        InputError: no Ray answers at the address.
        RayLost: a Ray of its own did not start.
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
    """Whether `ray_session` would use a Ray that runs already, rather than start one."""
    return bool(address or os.environ.get("RAY_ADDRESS")) or (
        "ray" in sys.modules and sys.modules["ray"].is_initialized()
    )


def check_address(address: str | None) -> None:
    """Refuses an address that a sweep's driver cannot use.

    Raises:
        InputError: it is one of Ray's client or of its dashboard.
    """
    if address and "://" in address:
        raise InputError(
            f"address {address} of Ray: a sweep's driver runs inside the cluster (allowed: auto, or HOST:PORT of a Ray "
            "that this machine belongs to; from outside use `tensorrl submit FILE --address http://HOST:8265`)"
        )


def _own_token() -> None:
    """Gives a Ray of this process's own a token that ends with the process.

    Ray would write one into the home folder. Every cluster that is started there later would then ask for it, while
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
    """Keeps Ray's own reports of trials' failures off the terminal: the sweep's table has them."""
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
    """Standard output without the notices of dead workers, which Ray prints there whatever its log level.

    They would end up in the middle of a progress display or of JSON. The sweep reports such trials itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, unless it is Ray's."""
        return len(text) if threading.current_thread().name == _MESSAGES_THREAD else self._stream.write(text)
