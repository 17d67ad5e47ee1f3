"""A trial's reports as TensorBoard event files, in the trial's folder.

As for MLflow, the reports are the source of truth and the event files are a copy. A resumed trial begins a new file. It
starts with the mark by which TensorBoard drops what it read from older files (`purge_step`), then repeats the reports
up to the checkpoint. So no point is shown twice, none that was cut is left, and a file that a kill tore does no harm.
The older files stay: TensorBoard's reader stops at a file that vanishes while it is open.

PyTorch's writer is used, because a trial has PyTorch loaded. Besides it needs only `tensorboard`, the package that
shows the files. Ray brings tensorboardX, but may stop doing so.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorrl.errors import InputError
from tensorrl.tracking import entries
from tensorrl.tracking.record import one_line
from tensorrl.trial import folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENT_FILES = "events.out.tfevents.*"
_log = logging.getLogger(__name__)


def require_tensorboard() -> None:
    """Checks that event files can be written.

    Raises:
        InputError: the extra `tensorboard` is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard's event files need the package tensorboard: pip install 'tensorrl[tensorboard]'")


class EventFiles:
    """Keeps the event files of a trial up to date while it trains: a `Record` of `tensorrl.trial.loop`.

    Each figure of a report is a scalar under the name that it has in MLflow, at its agent step; so are the final ones.
    If writing fails, one warning is logged, and the trial continues without event files.

    Args:
        directory: the trial's folder.

    Raises:
        InputError: the extra `tensorboard` is not installed, or the folder of event files is a symbolic link.
    """

    def __init__(self, directory: Path) -> None:
        require_tensorboard()
        self.directory = directory
        self.place = directory / folder.TENSORBOARD
        if self.place.is_symlink():
            raise InputError(f"{self.place}: is a symbolic link (allowed: a folder of the trial's own)")
        self._writer: SummaryWriter | None = None
        self._last = -1
        self._failed = False

    def poke(self) -> None:
        """Writes the reports that are new. Never raises."""
        self._try(self._write)

    def close(self, *, failed: bool = False) -> None:
        """Writes what is left, with the final figures of a finished trial. Never raises.

        Args:
            failed: not used; event files do not say how a trial ended.
        """
        self._try(self._end)

    def _try(self, action: Any) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            _log.warning("%s: event files are no longer written (%s)", self.place, one_line(error))

    def _write(self) -> None:
        if self._writer is None:
            self._writer = self._begin()
            lines = folder.read_progress(self.directory)
        else:
            lines = [line for line in [folder.last_report(self.directory)] if line]
        written = folder.modified_ms(self.directory / folder.PROGRESS_FILE) or 0
        for line in lines:
            if line[folder.STEP] > self._last:
                self._add(entries.line_points(line, timestamp=written))
                self._last = line[folder.STEP]
        self._writer.flush()

    def _begin(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.place), purge_step=0)

    def _end(self) -> None:
        if folder.read_trial(self.directory) is None:
            return
        self._write()
        result = folder.read_result(self.directory)
        if result is not None:
            ended = folder.modified_ms(self.directory / folder.RESULT_FILE) or 0
            trial, lines = folder.read_trial(self.directory) or {}, folder.read_progress(self.directory)
            self._add(entries.final_points(result, trial, lines, timestamp=ended))
        if self._writer is not None:
            self._writer.close()

    def _add(self, points: list[entries.Point]) -> None:
        assert self._writer is not None
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step, walltime=point.timestamp / 1_000)


def add_missing(directory: Path) -> None:
    """Writes the event files of a finished trial that has none. Any other trial is left as it is."""
    if folder.read_result(directory) is not None and not any((directory / folder.TENSORBOARD).glob(EVENT_FILES)):
        EventFiles(directory).close()
