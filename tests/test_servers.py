"""Servers that tests and pictures start do not outlive them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from servers import started

TESTS = Path(__file__).parent


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_server_ends_when_the_process_that_started_it_is_killed() -> None:
    server = "import os, subprocess; print(os.getpid(), flush=True); subprocess.run(['sleep', '600'])"
    starts = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from servers import started; import time; "
    starts += f"started([sys.executable, '-c', {server!r}]); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        running = psutil.Process(int(parent.stdout.readline()))
        while not running.children():
            time.sleep(0.01)
        group = [running, *running.children()]
        parent.kill()
    deadline = time.monotonic() + 60
    while any(map(_runs, group)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_shell_that_guards_a_server_ends_with_it() -> None:
    assert started(["true"]).wait(60) == -signal.SIGKILL
