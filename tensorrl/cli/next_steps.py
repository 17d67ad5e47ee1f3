"""What is said when a long work is done: where its results are, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorrl.trial.folder import TRIAL_FILE

if TYPE_CHECKING:
    from tensorrl.tracking import Link


def after_training(out: Path, result: Mapping[str, Any], link: Link | None) -> str:
    """Returns what follows a trial.

    Args:
        out: its folder.
        result: its final figures.
        link: of its experiment in MLflow; None where MLflow does not answer.
    """
    video, curves = out / "game.mp4", out / "curves.png"
    return "\n".join(
        [
            f"results: {out}",
            f"  film:   {_command('evaluate', out, '--episodes', 1, '--video', video)}",
            f"  curves: {_command('curves', out, '--out', curves)}",
            *_mlflow(link),
        ]
    )


def after_evaluation(path: Path, video: Path | None) -> str:
    """Returns what follows an evaluation.

    Args:
        path: the run's folder, or a checkpoint in it.
        video: where the first game was filmed.
    """
    run = next((folder for folder in (path, *path.parents) if (folder / TRIAL_FILE).is_file()), None)
    lines = [f"film: {video}"] if video is not None else []
    if video is None:
        lines.append(f"film:   {_command('evaluate', path, '--episodes', 1, '--video', 'game.mp4')}")
    if run is not None:
        lines.append(f"curves: {_command('curves', run, '--out', 'curves.png')}")
    return "\n".join(lines)


def after_sweep(name: str, store: Path, link: Link | None) -> str:
    """Returns what follows a sweep.

    Args:
        name: of the sweep.
        store: its store.
        link: of its experiment in MLflow; None where MLflow does not answer.
    """
    from tensorrl.sweeps.store.layout import REPORT_FOLDER, sweep_folder

    page = sweep_folder(store, name) / REPORT_FOLDER / "index.html"
    return "\n".join(
        [
            f"results: {store}",
            *([f"  report: {page}"] if page.exists() else []),
            f"  anew:   {_command('report', name, '--store', store)}",
            f"  status: {_command('status', name, '--out', store)}",
            *_mlflow(link),
        ]
    )


def after_sync(links: list[Link]) -> str:
    """Returns where MLflow shows what was sent.

    Args:
        links: of the experiments that hold it.
    """
    return "\n".join(line for link in links for line in _mlflow(link))


def _mlflow(link: Link | None) -> list[str]:
    if link is None:
        return []
    lines = [f"  MLflow: {link.url}"]
    if link.charts is not None:
        lines.append("          (with &compareRunsMode=CHART at its end: the charts)")
    if link.command is not None:
        lines.append(f"          after: {link.command}")
    return lines


def _command(*words: object) -> str:
    return shlex.join(["tensorrl", *map(str, words)])
