"""Maps a trial's folder to MLflow parameters, tags and metrics. Pure functions of the files' content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tensorrl.trial.folder import STEP

KEY_TAG = "tensorrl.key"
STOPPED_TAG = "tensorrl.stopped"
ARTIFACTS_TAG = "tensorrl.artifacts"
"""The tag that lists the files of a finished run; it is set once all of them are there."""
MODEL_TAG = "tensorrl.model"
"""The tag that names the logged model of a finished run's policy."""
SENTINEL = STEP
"""The metric whose history shows which progress lines MLflow already holds. Every line has it, at its own step."""

METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
TAGS_PER_BATCH = 100
_NAME_LENGTH = 250
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_IDENTITY = ("game", "variant", "seed", "coefficients", "compression_ratio", "steps")
_NO_TAG = frozenset({*_IDENTITY, "key", "commit", "settings", "network"})
_ALSO_METRICS = ("compression_ratio", "coefficients")


class Point(NamedTuple):
    """One value of one metric; `timestamp` in milliseconds since the epoch, `step` in agent steps."""

    name: str
    value: float
    timestamp: int
    step: int


def parameters(trial: Mapping[str, Any]) -> dict[str, str]:
    """Returns the MLflow parameters of a trial: its identity, its counts and every resolved setting.

    If a setting has the same name as a part of the identity (`coefficients`, say), the setting is left out. So are
    unset settings.
    """
    given = dict(_flat(trial.get("settings") or {}, separator="."))
    given |= {name: trial[name] for name in _IDENTITY if name in trial}
    return {_name(name): _text(value)[:_PARAM_LENGTH] for name, value in given.items() if value is not None}


def tags(trial: Mapping[str, Any], *, run_name: str) -> dict[str, str]:
    """Returns the tags of a new run. The first is the trial's key, by which the run is found again."""
    found = {KEY_TAG: str(trial["key"]), "mlflow.runName": run_name, "mlflow.source.name": "tensorrl"}
    if trial.get("commit"):
        found["mlflow.source.git.commit"] = str(trial["commit"])
    about = {name: value for name, value in trial.items() if name not in _NO_TAG}
    found |= {f"tensorrl.{name}": _text(value) for name, value in _flat(about, separator=".") if value is not None}
    return {_name(name): value[:_TAG_LENGTH] for name, value in found.items()}


def sweep_tag(name: str) -> str:
    """Returns the tag of every run that is a cell of the sweep `name`; several sweeps may share a cell."""
    return f"tensorrl.sweep.{name}"


def description_points(trial: Mapping[str, Any], *, timestamp: int) -> list[Point]:
    """Returns the counts that are both metrics and parameters, so that MLflow can plot a score against them."""
    return [Point(n, float(trial[n]), timestamp, 0) for n in _ALSO_METRICS if _is_figure(trial.get(n))]


def line_points(line: Mapping[str, Any], *, timestamp: int) -> list[Point]:
    """Returns the points of one progress line, the sentinel last.

    Args:
        line: a line of a trial's reports. Its `time` (seconds since the epoch), if it has one, is the points' time.
        timestamp: the points' time in milliseconds if the line has none.
    """
    own: Any = line.get("time")
    when = int(own * 1000) if _is_figure(own) else timestamp
    step = int(line[STEP])
    figures = ((n, v) for n, v in _flat(line) if _is_figure(v) and n not in (STEP, "time"))
    return [*(Point(_name(n), float(v), when, step) for n, v in figures), Point(SENTINEL, float(step), when, step)]


def final_points(
    result: Mapping[str, Any], trial: Mapping[str, Any], lines: Iterable[Mapping[str, Any]], *, timestamp: int
) -> list[Point]:
    """Returns a finished trial's final figures as points at its last step.

    Figures that only repeat `trial.json` or the last progress line are left out. A figure whose value differs from the
    last progress line's is named `final_…`, because a metric has one value per step. An example is `steps_per_second`:
    progress lines give it since the line before, the result for the whole trial.
    """
    lines = list(lines)
    names = {name for line in lines for name, _ in _flat(line)} | {SENTINEL}
    last = dict(_flat(lines[-1])) if lines else {}
    step = int(last[STEP]) if lines else int(trial.get("steps") or 0)
    return [
        Point(_name(f"final_{name}" if name in names else name), float(value), timestamp, step)
        for name, value in _flat(_only_final(result, trial))
        if _is_figure(value) and value != last.get(name)
    ]


def final_tags(result: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, str]:
    """Returns a finished trial's final texts (`parameters_sha256`, say) as tags `tensorrl.…`."""
    texts = ((n, v) for n, v in _flat(_only_final(result, trial), separator=".") if isinstance(v, str))
    return {_name(f"tensorrl.{n}"): v[:_TAG_LENGTH] for n, v in texts}


def batches(groups: Iterable[list[Point]], size: int = METRICS_PER_BATCH) -> Iterator[list[Point]]:
    """Packs groups of points (one per line) into batches of at most `size`. A group that fits is never split.

    MLflow writes the metrics of a batch in one transaction, so a group is written completely or not at all. A group
    larger than a batch is split in order, so its sentinel, the last point, arrives last.
    """
    batch: list[Point] = []
    for group in groups:
        if batch and len(batch) + len(group) > size:
            yield batch
            batch = []
        batch = batch + group
        while len(batch) > size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


def _only_final(result: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in result.items() if n not in trial and n != "time"}


def _flat(values: Mapping[str, Any], *, separator: str = "/", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, separator=separator, prefix=f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:_NAME_LENGTH]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
