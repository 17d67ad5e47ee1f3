"""Runs a sweep on Ray Tune. Running it means: make all of its trials exist; those that do are left as they are."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tensorrl.errors import InputError
from tensorrl.sweeps import worker
from tensorrl.sweeps.cluster import ray_session
from tensorrl.sweeps.spec import SweepSpec, cell_folder, cells
from tensorrl.sweeps.status import CellStatus, State, cell_status
from tensorrl.tracking import prepare_store, sync_missing, tracking_uri_for
from tensorrl.tracking.folder import read_trial
from tensorrl.tracking.store import LockedError, file_lock
from tensorrl.trial import TrialSpec

OnUpdate = Callable[[list[CellStatus]], None]

TUNE_FOLDER = ".tune"
RETRIES = 2
_UPDATE_SECONDS = 1.0
_ERROR_LINES = 4
_STATES: dict[str, State] = {"RUNNING": "running", "ERROR": "failed"}
_log = logging.getLogger(__name__)


def run_sweep(
    spec: SweepSpec, out: Path, *, max_concurrent: int | None = None, on_update: OnUpdate | None = None
) -> list[CellStatus]:
    """Runs the trials of a sweep that are not finished, and returns how all of them stand.

    Each trial has its own folder `out/<game>-<variant>-seed<k>` as `tensorrl train` writes it, and its run in the
    MLflow experiment of the sweep's name. A trial that was begun before goes on from its last checkpoint. One that
    fails is tried again from there, twice at most, and then reported while the rest goes on. The same call, made
    again after any interruption, completes the sweep.

    Args:
        spec: the sweep.
        out: the sweep's folder, created where it is missing.
        max_concurrent: trials at once at most; None takes the sweep's own limit, or runs as many as fit.
        on_update: called about once a second, and at the end, with every trial's status. What it raises is logged.

    Returns:
        Every trial's status, in the order of `cells`: `finished` with its result, or `failed` with its last lines.

    Raises:
        InputError: a folder of the sweep holds another trial, another process runs this sweep, `out` cannot be
            written to, or a trial asks for more CPU cores than any machine has.
        KeyboardInterrupt: the sweep was interrupted; what its trials have checkpointed is kept.
    """
    out = out.absolute()
    grid = cells(spec)
    folders = [out / cell_folder(cell) for cell in grid]
    _check_folders(grid, folders)
    uri = tracking_uri_for(out / cell_folder(grid[0]))
    with _only_driver(out):
        board = _Board(grid, folders, on_update)
        if board.open_cells():
            with ray_session():
                _check_cpus(spec)
                _prepare(uri)
                _tune(spec, board, uri=uri, max_concurrent=max_concurrent or spec.max_concurrent)
        missed = [o for o in sync_missing(folders, tracking_uri=uri, experiment=spec.name) if o.problem]
        if missed:
            _log.warning(
                "MLflow lacks a part of %d of %d trials (%s); it stays in %s to be synced",
                len(missed), len(grid), missed[0].problem, out,
            )  # fmt: skip
        board.show()
    return board.rows()


def last_lines(text: str, count: int = _ERROR_LINES) -> tuple[str, ...]:
    """Returns the last lines of an error's text that say something, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return tuple(line.rstrip() for line in plain.splitlines() if line.strip())[-count:]


class _Board:
    """Every trial's status while the sweep runs: what Tune knows of it, and what its folder says."""

    def __init__(self, grid: Sequence[TrialSpec], folders: Sequence[Path], on_update: OnUpdate | None) -> None:
        self.grid = grid
        self.folders = folders
        self.states: list[State] = ["waiting"] * len(grid)
        self.failures = [0] * len(grid)
        self.errors: list[tuple[str, ...]] = [()] * len(grid)
        # Folders of the others need not be read again and again: a large sweep has hundreds.
        self._begun = [False] * len(grid)
        self._on_update = on_update
        self._shown = 0.0
        self._rows = [self._read(index) for index in range(len(grid))]

    def _read(self, index: int) -> CellStatus:
        return cell_status(
            self.grid[index],
            self.folders[index],
            state=self.states[index],
            failures=self.failures[index],
            error=self.errors[index],
        )

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which a sweep does not use; a display may hold locks.
        return {**self.__dict__, "_on_update": None}

    def tell(self, index: int, status: str, *, failures: int, error: tuple[str, ...] = ()) -> None:
        """Notes what Tune knows of a trial: its status in Tune's words, its failures, the last lines of the last."""
        self._begun[index] |= status != "PENDING"
        self.states[index] = _STATES.get(status, "waiting")
        self.failures[index] = failures
        self.errors[index] = error

    def rows(self) -> list[CellStatus]:
        """Returns every trial's status as it is now."""
        for index, row in enumerate(self._rows):
            if row.state != "finished" and self._begun[index]:
                self._rows[index] = self._read(index)
        return list(self._rows)

    def open_cells(self) -> list[int]:
        """Returns the places of the trials that are not finished."""
        return [index for index, row in enumerate(self._rows) if row.state != "finished"]

    def show(self, *, every: float = 0.0) -> None:
        """Tells the caller how the trials stand, unless it was told less than `every` seconds ago."""
        now = time.monotonic()
        if self._on_update is None or (every and now - self._shown < every):
            return
        self._shown = now
        try:
            self._on_update(self.rows())
        except Exception:
            _log.exception("the sweep goes on, but its progress cannot be shown")


def _tune(spec: SweepSpec, board: _Board, *, uri: str, max_concurrent: int | None) -> None:
    from ray import tune
    from ray.tune.progress_reporter import TrialProgressCallback

    out = board.folders[0].parent
    places = {board.folders[index].name: index for index in board.open_cells()}
    tasks = [
        worker.CellTask(
            spec=board.grid[index].model_dump(mode="json"),
            folder=str(board.folders[index]),
            lock=str(out / TUNE_FOLDER / f"{name}.lock"),
            tracking_uri=uri,
            experiment=spec.name,
            trial_function=worker.TRIAL_FUNCTION,
        )
        for name, index in places.items()
    ]

    class Watch(TrialProgressCallback):  # type: ignore[misc]
        """Carries what Tune knows of its trials to the board, at every turn of Tune's loop.

        It takes the place of Tune's own printing of trials' ends, which no verbosity turns off.
        """

        trials: Sequence[Any] = ()

        def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
            self.trials = trials
            for trial in trials:
                board.tell(places[_cell_name(trial)], trial.status, failures=trial.num_failures)
            board.show(every=_UPDATE_SECONDS)

        def _say_nothing(self, *args: Any, **info: Any) -> None: ...

        on_trial_result = on_trial_error = on_trial_complete = _say_nothing

    watch = Watch()
    tune.Tuner(
        tune.with_resources(worker.run_cell, {"cpu": spec.cpus}),
        param_space={"cell": tune.grid_search(tasks)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=max_concurrent, trial_name_creator=_cell_name, trial_dirname_creator=_cell_name
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(out / TUNE_FOLDER),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[watch],
            verbose=0,
        ),
    ).fit()
    for trial in watch.trials:
        refused = trial.last_result.get("refused")
        if trial.status == trial.ERROR or refused:
            error = (refused,) if refused else last_lines(trial.get_error() or "the process died")
            board.tell(places[_cell_name(trial)], trial.ERROR, failures=trial.num_failures, error=error)


def _cell_name(trial: Any) -> str:
    return Path(trial.config["cell"]["folder"]).name


def _check_folders(grid: Sequence[TrialSpec], folders: Sequence[Path]) -> None:
    for cell, folder in zip(grid, folders, strict=True):
        held = read_trial(folder)
        if held is not None and held["key"] != cell.key:
            raise InputError(
                f"{folder}: holds another trial, with other settings or steps (allowed: the same trial, or another "
                "folder for this sweep with --out)"
            )


def _check_cpus(spec: SweepSpec) -> None:
    import ray

    most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if spec.cpus > most:
        raise InputError(f"cpus: {spec.cpus} of each trial are more than any machine has (allowed: 1 to {most:.0f})")


def _prepare(uri: str) -> None:
    """Makes the store ready for trials that start together; where it cannot be, each trial's record deals with it."""
    try:
        prepare_store(uri)
    except Exception as error:
        _log.warning("MLflow at %s is not ready (%s); the trials run and are recorded later", uri, error)


@contextmanager
def _only_driver(out: Path) -> Iterator[None]:
    """Holds the sweep's folder, so that no second process runs the same trials."""
    with ExitStack() as held:
        try:
            (out / TUNE_FOLDER).mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(out / TUNE_FOLDER / "driver.lock", wait=False))
        except LockedError:
            raise InputError(f"{out}: another process runs a sweep in this folder (allowed: one at a time)") from None
        except OSError as error:
            raise InputError(f"{out}: cannot be written to: {error.strerror}") from None
        yield
