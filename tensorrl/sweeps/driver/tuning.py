"""Runs cells with Ray Tune: one Tune trial per cell, watched in every iteration of Tune's loop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorrl import files
from tensorrl.sweeps.driver import worker
from tensorrl.sweeps.driver.cluster import Watchman
from tensorrl.sweeps.driver.halving import ACTOR, NAMESPACE, Halts, make_scheduler
from tensorrl.sweeps.grid.spec import SweepSpec
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.store.board import Board
from tensorrl.sweeps.store.layout import STOP_FILE, TUNE_FOLDER, claim_name, sweep_name
from tensorrl.sweeps.store.signals import StopFlag, StopRequest

_GRACE_SECONDS = 60.0
"""Seconds that trials have to finish a hundred agent steps and write a checkpoint when asked to stop."""
_ERROR_LINES = 4
_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


@dataclass
class Control:
    """Everything that a driver needs to run its cells.

    Attributes:
        spec: the sweep.
        store: the folder of cells.
        folder: the sweep's own folder.
        board: the chosen cells and their statuses.
        device: the trials' device, "cpu" or "cuda".
        stop: whether the user wants the sweep to stop.
        flag: passes the request to stop on to the trials.
        uri: the URI of MLflow's store.
        resources: the resources of each trial, under Ray's names.
        max_concurrent: most trials at once.
        say: prints a line for the user.
        remote: the URI of the remote, if machines share no folder; otherwise empty.
    """

    spec: SweepSpec
    store: Path
    folder: Path
    board: Board
    device: str
    stop: StopRequest
    flag: StopFlag
    uri: str
    resources: Mapping[str, float]
    max_concurrent: int | None
    say: Callable[[str], None]
    remote: str = ""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own restore, which a sweep does not use. A display may hold locks.
        return {}


@dataclass
class RoundEnd:
    """How a round ended.

    Attributes:
        busy: indices of the cells that another process runs.
        stopped: whether the user asked to stop.
        full: whether the store has no space left.
    """

    busy: list[int] = field(default_factory=list)
    stopped: bool = False
    full: bool = False


class _Leave(Exception):
    """Ends Tune's loop once the trials have written their checkpoints."""


def tune_cells(control: Control, places: Sequence[int]) -> RoundEnd:
    """Runs cells with Tune until each is finished, has failed for good, or turns out to be run by another process.

    Args:
        control: the driver.
        places: indices of the cells on its board.
    """
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    if not control.remote:
        _clean(control.folder / TUNE_FOLDER)
    _keep_keys_in_the_environment()
    tasks = {control.board.listed[place].folder: place for place in places}
    watch = _make_watch(control, tasks)
    with suppress(_Leave), _scheduler(control, tasks) as scheduler:
        tune.Tuner(
            tune.with_resources(worker.run_cell, dict(control.resources)),
            param_space={"cell": tune.grid_search([_task(control, place) for place in places])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=control.max_concurrent,
                scheduler=scheduler,
                trial_name_creator=_cell_name,
                trial_dirname_creator=_cell_name,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=_tune_storage(control),
                failure_config=tune.FailureConfig(max_failures=control.spec.retries),
                callbacks=[watch, JsonLoggerCallback()],
                verbose=0,
            ),
        ).fit()
    return _round_end(control, watch.trials, tasks)


@contextmanager
def _scheduler(control: Control, tasks: Mapping[str, int]) -> Iterator[Any]:
    """Makes the sweep's scheduler (None if it has none) and the actor that tells trials its decisions."""
    if control.spec.scheduler is None:
        yield None
        return
    import ray

    halts: Any = ray.remote(num_cpus=0)(Halts).options(name=ACTOR, namespace=NAMESPACE, get_if_exists=True).remote()
    try:
        yield make_scheduler(
            control.spec.scheduler,
            control.spec.steps,
            game_of=lambda trial: control.board.listed[tasks[_cell_name(trial)]].game,
            # Wait for the answer, because the trial asks as soon as it continues.
            halt=lambda trial: ray.get(halts.add.remote(_cell_name(trial))),
        )
    finally:
        ray.kill(halts)


def _keep_keys_in_the_environment() -> None:
    """Keeps Tune from passing a bucket's keys to its trials, because Ray would log them; machines have them anyway."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_KEYS)


def last_lines(text: str, count: int = _ERROR_LINES) -> tuple[str, ...]:
    """Returns the last lines of an error's text, without empty lines and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return tuple(line.rstrip() for line in plain.splitlines() if line.strip())[-count:]


def _task(control: Control, place: int) -> worker.CellTask:
    cell = control.board.listed[place]
    return worker.CellTask(
        spec=cell.on(control.device).trial.model_dump(mode="json"),
        key=cell.key,
        store=str(control.store),
        folder=cell.folder,
        stop_file=str(control.flag.path),
        tracking_uri=control.uri,
        experiment=control.spec.experiment,
        trial_function=worker.TRIAL_FUNCTION,
        remote=control.remote,
        claim=claim_name(cell.key),
        remote_stop=sweep_name(control.spec.name, STOP_FILE),
        scheduler=control.spec.scheduler.model_dump() if control.spec.scheduler else {},
        tensorboard=control.spec.tensorboard,
    )


def _tune_storage(control: Control) -> str:
    """Returns where Tune keeps its own files, a place that all machines reach."""
    if control.remote:
        return Remote(control.remote).below(sweep_name(control.spec.name, TUNE_FOLDER))
    return str(control.folder / TUNE_FOLDER)


def _cell_name(trial: Any) -> str:
    return str(trial.config["cell"]["folder"])


def _outcome(trial: Any) -> worker.Outcome | None:
    """Returns the outcome that a Tune trial's process reported; None if it reported none."""
    return trial.last_result.get("outcome") if trial.status == "TERMINATED" else None


def _make_watch(control: Control, tasks: Mapping[str, int]) -> Any:
    from ray.tune.progress_reporter import TrialProgressCallback

    class Watch(TrialProgressCallback):  # type: ignore[misc]
        """Copies the state of Tune's trials to the board in every iteration of Tune's loop.

        It replaces Tune's own message about each trial's end, which no verbosity level turns off.
        """

        trials: Sequence[Any] = ()
        leaving: tuple[float, frozenset[str]] | None = None
        watchman = Watchman()

        def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
            self.trials = trials
            for trial in trials:
                control.board.tell(tasks[_cell_name(trial)], trial.status, failures=trial.num_failures)
            control.board.show()
            self.watchman.look()
            full = any(_outcome(trial) == "full" for trial in trials)
            if control.stop.requested or full:
                self._leave(trials, full=full)

        def _leave(self, trials: Sequence[Any], *, full: bool) -> None:
            running = {_cell_name(trial) for trial in trials if trial.status == "RUNNING"}
            now = time.monotonic()
            if self.leaving is None:
                control.flag.up()
                self.leaving = (now + _GRACE_SECONDS, frozenset(running))
                if not full:
                    control.say(f"stopping: {len(running)} trials write checkpoints; interrupt again to leave at once")
            deadline, asked = self.leaving
            if not running & asked or now > deadline:
                raise _Leave

        def _say_nothing(self, *args: Any, **info: Any) -> None: ...

        on_trial_result = on_trial_error = on_trial_complete = _say_nothing

    return Watch()


def _round_end(control: Control, trials: Sequence[Any], tasks: Mapping[str, int]) -> RoundEnd:
    end = RoundEnd(stopped=control.stop.requested)
    for trial in trials:
        place, outcome = tasks[_cell_name(trial)], _outcome(trial)
        if outcome == "busy":
            end.busy.append(place)
        elif outcome == "full":
            end.full = True
        elif outcome == "refused":
            control.board.tell(place, "ERROR", error=(str(trial.last_result["reason"]),))
        elif trial.status == "ERROR":
            error = last_lines(trial.get_error() or "the process died")
            control.board.tell(place, "ERROR", failures=trial.num_failures, error=error)
        elif trial.status == "RUNNING":
            control.board.tell(place, "PENDING")
    return end


def _clean(folder: Path) -> None:
    """Removes Tune's files from earlier runs. A sweep continues from the cells' folders, not from them.

    A symbolic link is removed, but its target is not, because it may belong to somebody else.
    """
    for old in [folder] if folder.is_symlink() else sorted(folder.glob("*")):
        files.remove(old)
