"""Runs one trial from its description to its result on disk. After a kill at any point it resumes to the same bits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from tensorrl import files, games, system
from tensorrl.environments.atari import AtariGame
from tensorrl.errors import InputError
from tensorrl.learning.recording import Recorder
from tensorrl.trial import difference, folder
from tensorrl.trial.loop import Interrupted, OnReport, Record, TrialLoop
from tensorrl.trial.spec import TrialSpec, describe, make_spec
from tensorrl.trial.training import Training, build_agent

_MOST_DIFFERENCES = 4

__all__ = ["FolderInUse", "Interrupted", "Record", "TrialSpec", "build_training", "make_spec", "run_trial"]


class FolderInUse(InputError):
    """Another process trains in the folder."""


def build_training(spec: TrialSpec, device: torch.device, recorder: Recorder | None = None) -> Training:
    """Builds a trial's training at its start, before a warm start; see `Agent` for the recorder."""
    settings, game = spec.settings, games.get(spec.game)
    system.use_device(device)
    agent = build_agent(settings, game.actions, spec.seed, device, recorder)
    return Training(AtariGame(game.name, spec.seed), agent, settings, spec.steps)


def run_trial(
    spec: TrialSpec,
    out: Path,
    *,
    resume: bool = False,
    record: Callable[[Path], Record] | None = None,
    on_report: OnReport | None = None,
    stop: Callable[[], bool] | None = None,
    build: Callable[[TrialSpec, torch.device], Training] | None = None,
) -> dict[str, Any]:
    """Runs a trial to its end and returns what `out/result.json` holds.

    `tensorrl.trial.folder` lists the files that the folder then holds. A finished trial is not run again.

    Args:
        spec: the trial.
        out: its folder.
        resume: continue from the newest undamaged checkpoint in `out`, or start if there is none.
        record: makes the keeper of the folder's copy, which is told of every report.
        on_report: called with every report, and with "message" for messages to the user.
        stop: called every hundred agent steps; returns whether to write a checkpoint and stop. For trials that get no
            signals.
        build: builds the trial's training at its start; by default `build_training`.

    Raises:
        InputError: the description is not valid, or the folder cannot be used for this trial (see also `FolderInUse`).
        Interrupted: SIGINT or SIGTERM arrived, or `stop` returned True; the trial can be resumed.
    """
    description = describe(spec)
    device = system.choose_device(spec.device)
    with ExitStack() as held:
        done = _claim(out, description, held, resume=resume)
        if done is not None:
            return done
        threads = system.use_threads(spec.threads)
        system.keep_freed_memory()
        if device.type == "cuda" and on_report is not None:
            on_report({"message": f"training on {system.device_name(device)}"})
        loop = TrialLoop(
            spec, (build or build_training)(spec, device), out, threads=threads, on_report=on_report or (lambda _: None)
        )
        return _run(loop, description, resume=resume, record=record, stop=stop or (lambda: False))


def _run(
    loop: TrialLoop,
    description: dict[str, Any],
    *,
    resume: bool,
    record: Callable[[Path], Record] | None,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    keeper, failed = None, False
    try:
        if resume:
            loop.restore()
        if loop.training.steps == 0:
            loop.begin()
        loop.keeper = keeper = record(loop.out) if record else None
        with _stop_signals() as stopped:
            result = {**description, **loop.to_end(lambda: stopped.is_set() or stop())}
        files.write_json(loop.out / folder.RESULT_FILE, result)
        return result
    except Exception as error:
        failed = not isinstance(error, Interrupted)
        raise
    finally:
        loop.training.close()
        if keeper is not None:
            keeper.close(failed=failed)


def _claim(out: Path, description: dict[str, Any], held: ExitStack, *, resume: bool) -> dict[str, Any] | None:
    """Makes `out` this trial's folder and locks it. Returns the result if the trial is already finished."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Checked twice: before the lock, to leave another trial's folder alone, and under it, when nothing changes.
        done = _look(out, description, resume=resume)
        if done is not None:
            return done
        held.enter_context(files.file_lock(out / folder.LOCK_FILE, wait=False))
        done = _look(out, description, resume=resume)
        if done is None and folder.load_trial(out) is None:
            files.write_json(out / folder.TRIAL_FILE, description)
    except OSError as error:
        raise InputError(f"{out}: cannot be used as an output folder ({error.strerror or error})") from None
    except files.LockedError:
        raise FolderInUse(f"{out}: another process trains here (allowed: another folder, or wait for it)") from None
    return done


def _look(out: Path, description: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """Refuses a folder that is not this trial's. Returns the result if the trial is finished."""
    other = folder.load_trial(out)
    if other is not None:
        if other["key"] != description["key"]:
            raise InputError(
                f"{out}: holds another run, with {_what_differs(other, description)}; choose another folder"
            )
        if not resume:
            raise InputError(f"{out}: holds this run already; continue it with --resume, or choose another folder")
        return folder.load_result(out)
    if not all(files.is_draft(path) or path.name == folder.LOCK_FILE for path in out.iterdir()):
        raise InputError(f"{out}: is not empty and contains no run of tensorrl; choose another folder")
    return None


def _what_differs(other: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Returns how another run differs from the requested one: "seed 1 where 0 is asked for"."""
    pairs = difference.rows([other, wanted])
    listed = [f"{name} {theirs} where {ours} is asked for" for name, (theirs, ours) in pairs.items()]
    more = f" and {len(listed) - _MOST_DIFFERENCES} more" if len(listed) > _MOST_DIFFERENCES else ""
    return ("; ".join(listed[:_MOST_DIFFERENCES]) or f"key {str(other['key'])[:8]}") + more


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into a request to stop at the next good moment; a second acts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: Any) -> None:
        stopped.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
