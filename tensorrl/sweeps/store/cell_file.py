"""A finished cell as one small text file: an export consists of them, and an import turns each into a trial's folder.

A file has what reports, curves and MLflow need: the description, the final figures, the lines of progress and, for the
game whose spectra a report draws, singular values. It has no checkpoint, no path and no password. Its lines are stable,
so that the diff of two exports shows what is new. A digest of its content comes last.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tensorrl import files, games
from tensorrl.analysis.provenance import elapsed_seconds, finished_at
from tensorrl.analysis.sections import FIGURE_1_GAME
from tensorrl.errors import InputError
from tensorrl.sweeps.grid.cells import KEY_LETTERS
from tensorrl.trial import folder, spectra
from tensorrl.trial.cell import CellStatus
from tensorrl.trial.names import is_part

SUFFIX = ".json"
# Two results of one cell are the same if these are equal; times and machines may differ.
_OUTCOME = ("score", "final_score", "score_episodes", "final_episodes", "parameters_sha256", "coefficients")
_REQUIRED = {"key": str, "game": str, "variant": str, "seed": int, "steps": int, "coefficients": int}
_NUMBERS = {"trial": ("compression_ratio",), "result": ("score", "final_score")}
_USER = re.compile(r"(?<=://)[^/\s@]*@")

Text = Annotated[str, Field(max_length=100_000)]


class CellFile(BaseModel):
    """A finished cell.

    Attributes:
        format: the version of the file's format.
        trial: the trial's description.
        result: the final figures, without those that repeat the description.
        columns: names of a report's figures.
        progress: a row for each report. A missing figure is null; missing figures at a row's end are left out.
        spectra: agent steps → unfolding → singular values, as little-endian float32 in base 64.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["tensorrl-cell/1"] = "tensorrl-cell/1"
    trial: dict[str, Any]
    result: dict[str, Any]
    columns: list[Text] = []
    progress: list[list[Any]] = []
    spectra: dict[str, dict[str, Text]] = {}

    @property
    def key(self) -> str:
        """The cell's key."""
        return str(self.trial["key"])

    @property
    def name(self) -> str:
        """The name of the cell's folder in a store, from the cell's own description."""
        about = self.trial
        return f"{about['game']}-{about['variant']}-seed{about['seed']}-{self.key[:KEY_LETTERS]}"

    @property
    def outcome(self) -> dict[str, Any]:
        """The values that two files of one cell must agree on."""
        return {name: (self.trial | self.result).get(name) for name in _OUTCOME}

    def text(self) -> str:
        """The file's content."""
        body = self.model_dump()
        rows = ",\n".join(_compact(row) for row in self.progress)
        moments = ",\n".join(f"{_compact(steps)}:{_compact(values)}" for steps, values in self.spectra.items())
        lines = [f'"{name}":{_compact(body[name])}' for name in ("format", "trial", "result", "columns")]
        lines += [f'"progress":[\n{rows}\n]', f'"spectra":{{\n{moments}\n}}', f'"sha256":"{_digest(body)}"']
        return "{" + ",\n".join(lines) + "}\n"


def read_cell(status: CellStatus) -> CellFile:
    """Reads a finished cell's folder into the content of its file.

    Raises:
        InputError: the spectra are damaged.
    """
    trial = _cleaned(status.trial)
    result = {name: value for name, value in _cleaned(status.result).items() if trial.get(name, ...) != value}
    moment, elapsed = finished_at(status), elapsed_seconds(status)
    if moment is not None:
        result.setdefault("finished_at", moment.isoformat(timespec="seconds"))
    if elapsed is not None:
        result.setdefault("elapsed_seconds", elapsed)
    lines = folder.read_progress(status.folder)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    rows = [_row(line, columns) for line in lines]
    return CellFile(trial=trial, result=result, columns=columns, progress=rows, spectra=_spectra(status))


def parse(content: bytes, *, where: str) -> CellFile:
    """Reads a file's content.

    Raises:
        InputError: the content is damaged, or is not a cell's file.
    """
    try:
        held = json.loads(content)
        said = held.pop("sha256")
        found = CellFile.model_validate(held)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            raise _damaged(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        raise _damaged(where, "no cell of an export") from None
    if said != _digest(found.model_dump()):
        raise _damaged(where, "its content is not what its digest says")
    _check(found, where)
    return found


def _check(found: CellFile, where: str) -> None:
    for name, kind in _REQUIRED.items():
        if type(found.trial.get(name)) is not kind:
            raise _damaged(where, f"trial.{name} is {found.trial.get(name)!r}")
    for part, names in _NUMBERS.items():
        for name in names:
            if not folder.is_number(getattr(found, part).get(name)):
                raise _damaged(where, f"{part}.{name} is {getattr(found, part).get(name)!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", found.key):
        raise _damaged(where, f"trial.key is {found.key[:80]!r}")
    if "/" in found.name or not is_part(found.name) or games.get(found.trial["game"]).name != found.trial["game"]:
        raise _damaged(where, f"{found.name[:80]!r} is not a name of a cell")
    if found.result.get("key", found.key) != found.key:
        raise _damaged(where, "its result is another cell's")
    if any(len(row) > len(found.columns) for row in found.progress):
        raise _damaged(where, "a row of progress is longer than its columns")
    for steps, values in found.spectra.items():
        try:
            if not steps.isascii() or not steps.isdigit():
                raise ValueError
            for text in values.values():
                _decoded(text)
        except ValueError:
            raise _damaged(where, f"spectrum {steps[:20]!r}") from None


def write_folder(found: CellFile, place: Path) -> None:
    """Writes the folder of a finished trial. The result is written last, so a kill leaves an unfinished trial.

    Args:
        found: the cell.
        place: the folder; reports that it holds are replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    place.mkdir(exist_ok=True)
    files.write_json(place / folder.TRIAL_FILE, found.trial)
    lines = [dict(zip(found.columns, row, strict=False)) for row in found.progress]
    text = "".join(
        json.dumps({name: value for name, value in line.items() if value is not None}) + "\n" for line in lines
    )
    files.write_text(place / folder.PROGRESS_FILE, text)
    for steps, values in found.spectra.items():
        arrays = {name: _decoded(value) for name, value in values.items()}
        spectra.save(place, spectra.Spectrum(int(steps), arrays))
    files.write_json(place / folder.RESULT_FILE, {**found.trial, **found.result})


def differences(one: CellFile, other: CellFile) -> list[str]:
    """Returns the names of the figures that differ between two results of one cell; empty if they are the same."""
    mine, theirs = one.outcome, other.outcome
    return [name for name in _OUTCOME if mine[name] != theirs[name]]


def _row(line: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    row = [line.get(name) for name in columns]
    while row and row[-1] is None:
        row.pop()
    return row


def _spectra(status: CellStatus) -> dict[str, dict[str, str]]:
    if status.game != FIGURE_1_GAME or not folder.spectrum_files(status.folder):
        return {}
    return {
        str(each.agent_steps): {
            name: base64.b64encode(values.astype("<f4").tobytes()).decode() for name, values in each.values.items()
        }
        for each in spectra.load(status.folder)
    }


def _decoded(text: str) -> Any:
    """Returns the singular values that a file holds: a float32 array.

    Raises:
        ValueError: the text is not base 64 of float32 values.
    """
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("no singular values")
    return values


def _cleaned(value: Any) -> Any:
    """Removes paths of this machine (their last part stays) and the user and password of addresses."""
    if isinstance(value, Mapping):
        return {name: _cleaned(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", value):
        return PurePath(value.replace("\\", "/")).name
    return _USER.sub("", value)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _damaged(where: str, what: str) -> InputError:
    return InputError(f"{where}: is damaged ({what})")
