"""A terminal of 80 columns: what a command draws there, line by line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

COLUMNS = 80
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-B0-2]|\x1b[=>]")


def capture(*arguments: object, cwd: Path, code: int = 0, **environment: str) -> list[str]:
    """Runs `tensorrl` on a terminal of 80 columns; returns every line that was ever drawn there, in order."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorrl", *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env={**clean, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    text = drawn.decode()
    assert process.wait() == code, text
    return [line.rstrip() for line in re.split(r"[\r\n]+", _CONTROL.sub("", text)) if line.strip()]
