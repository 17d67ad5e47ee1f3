"""The lines printed after a long command: where its results are, and which commands to run next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorrl.trial.folder import TRIAL_FILE

if TYPE_CHECKING:
    from tensorrl.tracking import Link


def after_training(out: Path, result: Mapping[str, Any], link: Link | None) -> str:
    """Returns the lines to print after a trial.

    Args:
        out: the trial's folder.
        result: the trial's final figures.
        link: the link to its experiment in MLflow; None if MLflow does not answer.
    """
    video, curves = out / "game.mp4", out / "curves.png"
    return "\n".join(
        [
            f"results: {out}",
            f"  film:   {_command('evaluate', out, '--episodes', 1, '--video', video)}",
            f"  curves: {_command('curves', out, '--out', curves)}",
            *_mlflow(link),
            *_no_model(),
        ]
    )


def after_evaluation(path: Path, video: Path | None) -> str:
    """Returns the lines to print after an evaluation.

    Args:
        path: the run's folder, or a checkpoint in it.
        video: the file that the first game was recorded to, if any.
    """
    run = next((folder for folder in (path, *path.parents) if (folder / TRIAL_FILE).is_file()), None)
    lines = [f"film: {video}"] if video is not None else []
    if video is None:
        lines.append(f"film:   {_command('evaluate', path, '--episodes', 1, '--video', 'game.mp4')}")
    if run is not None:
        lines.append(f"curves: {_command('curves', run, '--out', 'curves.png')}")
    return "\n".join(lines)


def after_sweep(name: str, store: Path, link: Link | None) -> str:
    """Returns the lines to print after a sweep.

    Args:
        name: the sweep's name.
        store: the sweep's store.
        link: the link to its experiment in MLflow; None if MLflow does not answer.
    """
    from tensorrl.sweeps.store.layout import REPORT_FOLDER, sweep_folder

    page = sweep_folder(store, name) / REPORT_FOLDER / "index.html"
    return "\n".join(
        [
            f"results: {store}",
            *([f"  report: {page}"] if page.exists() else []),
            f"  update: {_command('report', name, '--store', store)}",
            f"  status: {_command('status', name, '--out', store)}",
            *_mlflow(link),
            *_no_model(),
        ]
    )


def after_sync(links: list[Link]) -> str:
    """Returns the lines that say where MLflow shows the runs that were sent.

    Args:
        links: the links to the experiments that hold the runs.
    """
    return "\n".join([*(line for link in links for line in _mlflow(link)), *_no_model()])


def _mlflow(link: Link | None) -> list[str]:
    if link is None:
        return []
    lines = [f"  MLflow: {link.url}"]
    if link.charts is not None:
        lines.append("          (add &compareRunsMode=CHART for the charts)")
    if link.command is not None:
        lines.append(f"          start it first: {link.command}")
    return lines


def _no_model() -> list[str]:
    from tensorrl.tracking import missing_extra

    note = missing_extra()
    return [] if note is None else [note]


def _command(*words: object) -> str:
    # A path that begins with a dash would be read as an option.
    return shlex.join(["tensorrl", *(f"./{w}" if isinstance(w, Path) and str(w)[0] == "-" else str(w) for w in words)])
