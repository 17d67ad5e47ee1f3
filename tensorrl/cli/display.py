"""Prints the status of a sweep, and the estimate of what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from tensorrl.cli.progress import duration, progress_news
from tensorrl.cli.tables import print_table

if TYPE_CHECKING:
    from tensorrl.sweeps import SweepStatus


class StatusDisplay:
    """Shows the status of a sweep: updated in place on a terminal, printed line by line elsewhere."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, status: SweepStatus) -> None:
        """Takes the sweep's status."""
        shown = Group(*_status_lines(status))
        console = Console(highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.print(shown)
            return
        if self._live is None:
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)


def _status_lines(status: SweepStatus) -> list[str]:
    drivers = {
        "running": f"run by {status.where}",
        "waiting": f"another driver runs it, and {status.where} waits for that to end",
        "stopped": "stopped; run the same command again to continue",
        "ended": "its driver ended",
        "gone": f"its driver is gone ({status.where}); run the same command again to continue",
        "none": "not run in this store yet",
    }
    done, total = sum(row.agent_steps for row in status.rows), sum(row.steps for row in status.rows)
    lines = [
        f"{status.name}: {drivers[status.driver]}",
        f"{progress_news(status.rows)}, {done:,} of {total:,} agent steps",
    ]
    for row in status.rows:
        if row.state == "running":
            speed = row.steps_per_second
            lines.append(
                f"  running {row.folder.name}: {row.agent_steps:,} of {row.steps:,} agent steps"
                + (f", {speed:.0f} steps/s" if speed else "")
                + (f", failed {row.failures} times before" if row.failures else "")
            )
    lines += [
        f"  {row.state} {row.folder.name}: {' | '.join(row.error) or 'no message'}"
        for row in status.rows
        if row.state in ("failed", "damaged")
    ]
    return [escape(line) for line in lines]


def print_estimate(found: Mapping[str, Any]) -> None:
    """Prints what `tensorrl sweep --check` found."""
    gib = 2**30
    print(
        f"{found['name']}: {found['cells']} cells, {found['finished']} finished in {found['store']}, "
        f"{found['left']} left ({found['steps_left']:,} agent steps)"
    )
    print_table(
        [
            {
                "variant": row["variant"],
                "cells left": row["cells_left"],
                "steps/s": "" if row["steps_per_second"] is None else f"{row['steps_per_second']:.0f}",
                "time": "" if row["seconds"] is None else duration(row["seconds"]),
                "speed from": row["source"],
            }
            for row in found["variants"]
        ]
    )
    for row in found["machines"]:
        gpus = f", {row['gpus']:g} GPUs: {row['trials_per_gpu']} trials on each" if row["gpus"] else ""
        print(
            f"{row['machine']}: {row['cpus']:g} cores, {row['memory'] / gib:.1f} GiB{gpus}: "
            f"{row['trials_at_once']} trials at once"
        )
    print(
        f"each trial: {found['memory_per_trial'] / gib:.2f} GiB of memory"
        + (f", {found['gpu_memory_per_trial'] / gib:.2f} GiB of GPU memory" if found["gpu_memory_per_trial"] else "")
        + f"; the whole sweep: {found['disk'] / gib:.2f} GiB of disk"
    )
    if found["hours"] is None:
        print("time: not known" + ("" if found["at_once"] else " (no machine can run trials yet)"))
    else:
        print(f"time: about {duration(found['hours'] * 3600)} with {found['at_once']} at once")
