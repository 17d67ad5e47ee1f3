"""The rule that every hostile input is held to, and what the inputs are drawn from.

The rule: an input is taken, or refused by one short printable line and exit code 2; no traceback; within seconds and
ordinary memory; nothing is written outside the folders that the command line names. docs/reliability.md has the
figures, which `pytest -m slow -s tests/cli/fuzz` prints.
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tensorrl.cli import app
from tensorrl.errors import InputError

SECONDS = 10.0
"""Of processor time that one input may take."""
MEMORY = 1 << 30
"""Bytes by which all inputs of a kind may raise the process's peak."""

_WORDS = (
    "", " ", "\x00", "\x1b[31m", "\n", "..", "/", "../../x", "~", "-", "--", "%", "%s", "{}", "[", "{", "&a", "*a",
    "!!python/object:os.system", "!!int x", "<<", "?", "|", "é", "\u202e", "\ud800", "/dev/zero", "2026-02-30", ".nan",
    "-.inf", "1e999", "null", "true", "0x" + "f" * 50, "1:30", "pong", "rainbow", "n" * 5_000, "9" * 5_000,
)  # fmt: skip
HOSTILE_TEXT = st.one_of(st.text(max_size=30), st.sampled_from(_WORDS))
NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([2**31, 2**63, 1e308, 5e-324])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, HOSTILE_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE_TEXT, inner, max_size=3),
    max_leaves=8,
)


class Tally:
    """What the inputs of one kind came to."""

    def __init__(self, kind: str) -> None:
        self.kind, self.counts, self.slowest = kind, Counter[str](), 0.0
        self._memory = _peak()

    @contextlib.contextmanager
    def input(self) -> Iterator[None]:
        """Holds the rule for what the block does: an `InputError` of one line, or nothing."""
        begin = time.process_time()
        try:
            yield
        except InputError as error:
            check_line(str(error))
            self.counts["refused"] += 1
        else:
            self.counts["taken"] += 1
        seconds = time.process_time() - begin
        self.slowest = max(self.slowest, seconds)
        assert seconds < SECONDS

    def close(self, least: int) -> None:
        """Says the figures, and checks that they are not of too few inputs, or of one sort only."""
        raised = max(0, _peak() - self._memory)
        refused, taken = self.counts["refused"], self.counts["taken"]
        print(f"\n{self.kind}: {refused} refused, {taken} taken, 0 violations")
        print(f"slowest {self.slowest:.2f} s of processor time, {raised >> 20} MiB more memory")
        assert raised < MEMORY
        assert self.counts.total() >= least
        assert self.counts["refused"] > 0


def check_line(text: str) -> None:
    assert text.isprintable(), text
    assert 0 < len(text) <= 2_000


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(examples: int) -> Any:
    """Settings of hypothesis: the same inputs every time, as many as are asked for."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip


def command(*arguments: str) -> tuple[int, str]:
    """Runs the command line in this process; returns the exit code and what it said on standard error."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["tensorrl", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                code = app._run()
            except SystemExit as stop:
                code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, said.getvalue()


def hold(tally: Tally, *arguments: str, codes: tuple[int, ...] = (0, 2)) -> None:
    """Runs a command and holds the rule."""
    with tally.input():
        code, said = command(*arguments)
        assert code in codes, (arguments, code, said)
        if code == 2:
            (line,) = said.splitlines()
            raise InputError(line) if line.isprintable() else AssertionError(line)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
