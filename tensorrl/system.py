"""The machine: threads, devices and memory, as a trial uses and records them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from tensorrl.errors import InputError

_PACKAGES = ("tensorrl", "torch", "numpy", "ale-py", "gymnasium", "ray", "mlflow", "tensorly", "kymatio")
COMMIT_VARIABLE = "TENSORRL_COMMIT"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SUBNORMAL, _ONE = 5e-324, 1.0


def choose_device(name: str) -> torch.device:
    """Returns the device for the name "auto", "cpu" or "cuda".

    Raises:
        InputError: the name is another, or is "cuda" and there is no CUDA device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r} (allowed: auto, cpu, cuda)")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': PyTorch finds no CUDA device here (allowed: auto, cpu)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def use_device(device: torch.device) -> None:
    """Makes PyTorch's results on a GPU repeatable, in full float32 precision; does nothing on a CPU.

    cuDNN's convolutions avoid algorithms that add in a varying order, and TF32, which rounds their inputs to 10 bits
    (PyTorch's matrix products do not use it by default). cuBLAS gets a workspace of fixed size.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def device_name(device: torch.device) -> str:
    """Returns the name of a device for a message."""
    if device.type != "cuda":
        return f"the CPU ({torch.get_num_threads()} of its threads)"
    memory = torch.cuda.get_device_properties(device).total_memory
    return f"{torch.cuda.get_device_name(device)} ({memory / 2**30:.0f} GiB)"


def memory_is_short(error: torch.OutOfMemoryError) -> str:
    """Returns the message for a device without enough memory."""
    said = str(error).split(". ")[0]
    return f"device 'cuda': not enough memory ({said}); free some, use another device, or lower replay_capacity"


def restore_generator(generator: torch.Generator, state: torch.Tensor, step: int) -> bool:
    """Restores a generator's state; if the state is from another kind of device, reseeds the generator instead.

    CPUs and GPUs use different algorithms, so the state of one cannot continue on the other. The new seed is derived
    from the generator's own seed and the step, so every continuation from that step draws the same numbers.

    Args:
        generator: a generator freshly made from the trial's seed.
        state: the value that `get_state` returned.
        step: the trial's agent step at that time.

    Returns:
        Whether the draws continue where they stopped.
    """
    state = state.to("cpu", torch.uint8)
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
        return True
    seeds = np.random.SeedSequence([generator.initial_seed(), step])
    generator.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
    return False


def use_threads(threads: int | None) -> int:
    """Sets the number of threads of PyTorch's CPU operators; returns the number in use.

    Raises:
        InputError: `threads` is less than one.
    """
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads {threads} (allowed: at least 1)")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs PyTorch's CPU operators on one thread for a while."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def subnormals_as_zero(device: torch.device) -> Iterator[None]:
    """Makes PyTorch's CPU operators take and give 0 for float32 below 1.2e-38, the smallest normal number, for a while.

    Does nothing where `device` is not a CPU. Some processors need a hundred cycles and more for each such number.
    PyTorch can set this for the calling thread only, so operators run on one thread meanwhile: which numbers are 0 must
    not depend on the number of threads.
    """
    if device.type != "cpu":
        yield
        return
    already = _SUBNORMAL * _ONE == 0
    with one_thread():
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(already)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks instead of returning them to the kernel.

    Every update frees and allocates a few blocks of some megabytes. By default each allocation gets fresh pages, and
    the page faults cost as much as the arithmetic on them. Without glibc this does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def peak_memory_bytes() -> int:
    """Returns the peak resident set size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Returns the git commit of this source tree, with "+changes" if the tree differs from it.

    Outside a checkout, returns the variable `TENSORRL_COMMIT`, which images and submitted jobs set; otherwise None.
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


def intel_processor() -> bool:
    """Whether Intel made the processor, as far as the system tells."""
    vendor = _cpuinfo("vendor_id") if sys.platform == "linux" else platform.processor()
    return "GenuineIntel" in (vendor or "")


def _cpuinfo(key: str) -> str | None:
    """What Linux says of the first processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def machine() -> dict[str, str | int]:
    """Returns what a measured speed must be reported with: processor, cores in use, memory, GPU."""
    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    found: dict[str, str | int] = {"cpu": model, "cores": len(os.sched_getaffinity(0)), "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
