from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tensorrl.cli.app import app
from tensorrl.cli.streams import spelled_out

COMMAND = [sys.executable, "-m", "tensorrl"]
COMMANDS = sorted(str(info.name) for info in app.registered_commands)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the real command in a process of its own."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, env={**os.environ, **environment})


def test_where_there_is_no_letter_it_is_spelled_out() -> None:
    assert (
        spelled_out("ε-greedy, σ0 ÷ Δ × 2² … café ≤ 漢", "ascii")
        == "epsilon-greedy, sigma0 / Delta x 2^2 ... cafe <= \\u6f22"
    )
    assert spelled_out("┏━┓┃│├─", "ascii") == "+-+||+-"
    assert spelled_out("ε × é", "latin-1") == "epsilon × é"
    assert spelled_out("ε", "utf-8") == "ε"


@pytest.mark.parametrize("arguments", [["settings"], ["variants"], ["spectrum", "--help"]], ids=" ".join)
def test_a_terminal_of_ascii_gets_readable_ascii(arguments: list[str]) -> None:
    done = run(*arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("ascii")
    assert "\\u" not in text
    # Set before it was put in columns.
    if arguments == ["settings"]:
        assert "NoisyNet; otherwise epsilon-greedy exploration" in text
        assert len({len(line) for line in text.splitlines()}) == 1


def test_every_page_of_help_can_be_printed_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nfrom tensorrl.cli import app\n"
        f"for name in {COMMANDS!r}:\n"
        "    sys.argv = ['tensorrl', name, '--help']\n"
        "    try: app.main()\n"
        "    except SystemExit as stop: assert stop.code == 0, (name, stop.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(re.findall("Usage:", done.stdout.decode("ascii"))) == len(COMMANDS) > 10


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| head -c 100 >/dev/null", 1, b""),
        (">&-", 0, b""),
        (">/dev/full", 2, b"tensorrl: No space left on device\n"),
    ],
)
def test_output_that_goes_nowhere_leaves_no_traceback(redirection: str, code: int, said: bytes) -> None:
    # A table longer than a pipe holds, so that the reader is gone while it is written.
    command = " ".join(COMMAND) + " coefficients --all-games --json"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {redirection}"], capture_output=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--game", "pong", "--out", "x", "--steps", "many"], "tensorrl train: Invalid value for '--steps': "),
        (["sttus"], "tensorrl: No such command 'sttus'."),
        (["status"], "tensorrl status: Missing argument 'NAME|FILE'."),
        (["settings", "--bogus\x1b[31m"], "tensorrl settings: No such option: --bogus\\x1b[31m"),
        (["status", "n" * 5_000], "File name too long"),
    ],
)
def test_a_wrong_option_is_one_printable_line(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert said in line
    assert line.isprintable()
    assert len(line) < 500


def test_a_remote_that_cannot_be_taken_apart_is_one_line() -> None:
    done = run("pull", "s3://[bad")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("tensorrl: remote: is not a URI: Invalid IPv6 URL (allowed: ")
