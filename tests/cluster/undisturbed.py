"""Runs the cells of a sweep one after the other in this process; prints what they learned, as digests by key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tensorrl.sweeps import cells, load_sweep
from tensorrl.trial.run import run_trial


def main(sweep: str, folder: str) -> None:
    digests = {}
    for number, cell in enumerate(cells(load_sweep(Path(sweep)))):
        trial = cell.on("cpu").trial
        digests[trial.key] = run_trial(trial, Path(folder) / str(number))["parameters_sha256"]
    print(json.dumps(digests))


if __name__ == "__main__":
    main(*sys.argv[1:])
