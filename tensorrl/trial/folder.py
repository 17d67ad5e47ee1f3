"""A trial's folder as its readers see it: `trial.json`, `progress.jsonl` and, at the end, `result.json`.

Readers never assume that the writer is done: a last line cut short is not there yet, and a line that is gone
(the progress of a resumed trial is cut back to its checkpoint) will be written again with the same figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRIAL_FILE = "trial.json"
PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
STEP = "agent_steps"
SWEEPS_FOLDER = ".sweeps"
CELLS_FILE = "cells.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object that `path` holds, or None where there is no such file or it holds no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_trial(directory: Path) -> dict[str, Any] | None:
    """Returns the description of the trial in `directory` (its `trial.json`), or None where there is none."""
    trial = read_json(directory / TRIAL_FILE)
    return trial if trial is not None and isinstance(trial.get("key"), str) else None


def read_result(directory: Path) -> dict[str, Any] | None:
    """Returns the final figures of the trial in `directory`, or None while it is not finished.

    A result of another trial than the one `trial.json` describes counts as none.
    """
    trial, result = read_trial(directory), read_json(directory / RESULT_FILE)
    return result if trial is not None and result is not None and result.get("key") == trial["key"] else None


def read_progress(directory: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of `progress.jsonl` that carry a step, in the order of the file."""
    try:
        return read_lines((directory / PROGRESS_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_lines(content: bytes) -> list[dict[str, Any]]:
    """Returns the complete lines of a report file's content that carry a step."""
    lines: list[dict[str, Any]] = []
    for raw in content.split(b"\n")[:-1]:
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get(STEP), int):
            lines.append(line)
    return lines


def modified_ms(path: Path) -> int | None:
    """Returns when `path` was last written, in milliseconds since the epoch, or None where it does not exist."""
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except (FileNotFoundError, NotADirectoryError):
        return None


def sweeps_with(directory: Path) -> list[str]:
    """Returns the names of the sweeps beside a trial's folder that list it among their cells, sorted."""
    trial = read_trial(directory)
    if trial is None:
        return []
    found = []
    for path in sorted((directory.parent / SWEEPS_FOLDER).glob(f"*/{CELLS_FILE}")):
        cells = (read_json(path) or {}).get("cells")
        if any(cell.get("key") == trial["key"] for cell in cells or ()):
            found.append(path.parent.name)
    return found
