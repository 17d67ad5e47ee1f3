"""NVIDIA's Multi-Process Service (MPS) for trials that share a GPU: without it their kernels take turns.

The sweep starts one control daemon, for its own user and folder, before its trials, and ends it after them. It changes
no setting of the GPU: compute mode, power and MIG stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tensorrl.errors import InputError

CONTROL = "nvidia-cuda-mps-control"
VARIABLES = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
"""The variable by which the daemon and its client processes find each other."""
_SECONDS = 30.0

Wanted = Literal["auto", "on", "off"]


def is_wanted(mps: Wanted, *, gpus: float, joins_ray: bool) -> bool:
    """Returns whether a sweep starts a daemon.

    Args:
        mps: the field `mps` of the sweep's resources.
        gpus: number of GPUs of this machine.
        joins_ray: whether the sweep runs on an existing Ray, whose workers it cannot tell about a daemon.

    Raises:
        InputError: `mps` is `on`, but MPS cannot be used with this machine or this Ray.
    """
    if mps == "off":
        return False
    reasons = {
        "this machine has no GPU": not gpus,
        f"{CONTROL} is not on the PATH": shutil.which(CONTROL) is None,
        "the sweep joins a Ray that runs already; start the daemon on its machines before Ray": joins_ray,
    }
    missing = [reason for reason, holds in reasons.items() if holds]
    if mps == "on" and missing:
        raise InputError(f"resources.mps: on, but {missing[0]} (allowed: auto, off)")
    return not missing


@contextmanager
def daemon() -> Iterator[Path]:
    """Runs a control daemon that processes started inside the block use. Yields the daemon's folder.

    Raises:
        InputError: the daemon does not start.
    """
    # A socket's path may have 107 bytes, so the folder's path is short and independent of the sweep's folder.
    folder = Path(tempfile.mkdtemp(prefix="tensorrl-mps-"))
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        for name, part in zip(VARIABLES, ("pipe", "log"), strict=True):
            (folder / part).mkdir(mode=0o700)
            os.environ[name] = str(folder / part)
        _control("-d")
        try:
            yield folder
        finally:
            _quit()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def _control(*arguments: str, text: str | None = None) -> None:
    try:
        ran = subprocess.run(
            [CONTROL, *arguments], input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"resources.mps: {CONTROL} does not run ({error})") from None
    if ran.returncode:
        said = " ".join((ran.stderr or ran.stdout).split())[:200]
        raise InputError(f"resources.mps: {CONTROL} does not start ({said or f'exit code {ran.returncode}'})")


def _quit() -> None:
    try:
        _control(text="quit\n")
    except InputError:
        # The daemon has already ended, or ends with the last process that uses it.
        return
