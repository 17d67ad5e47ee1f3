"""The machine: threads, devices, memory. What a trial asks of it and records about it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from tensorrl.errors import InputError

_PACKAGES = ("tensorrl", "torch", "numpy", "ale-py", "gymnasium", "ray", "mlflow", "tensorly", "kymatio")
COMMIT_VARIABLE = "TENSORRL_COMMIT"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" names here.

    Raises:
        InputError: another name, or "cuda" where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r} (allowed: auto, cpu, cuda)")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': PyTorch finds no CUDA device here (allowed: auto, cpu)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_threads(threads: int | None) -> int:
    """Sets the number of threads of PyTorch's CPU operators; returns the number in force.

    Raises:
        InputError: fewer than one.
    """
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads {threads}: at least 1")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks instead of handing them back to the kernel.

    An update frees and takes a few blocks of some megabytes; by default each comes as fresh pages, and the page faults
    cost as much as the arithmetic on them. Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this source tree, with "+changes" where it differs from it.

    Outside a checkout it is what the variable `TENSORRL_COMMIT` says, which images and submitted jobs set; else None.
    """
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE) or None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changed else head


def machine() -> dict[str, str | int]:
    """What a figure of speed should name: processor, cores in use, memory, GPU."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    found: dict[str, str | int] = {"cpu": model, "cores": len(os.sched_getaffinity(0)), "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
