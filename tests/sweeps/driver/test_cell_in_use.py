"""A cell in whose folder `tensorrl train` is at work is waited for, not run twice and not given up."""

from __future__ import annotations

import json
from pathlib import Path

from tensorrl.files import file_lock
from tensorrl.sweeps import cells, locate
from tensorrl.sweeps.driver.worker import TRIAL_FUNCTION, CellTask, run_cell
from tensorrl.sweeps.grid.files import make_sweep
from tensorrl.sweeps.store.layout import open_store
from tensorrl.trial.folder import LOCK_FILE, is_in_use
from tensorrl.trial.spec import describe


def test_a_cell_that_train_runs_is_busy_and_its_record_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    open_store(store)
    spec = make_sweep({"name": "one", "games": ["pong"], "variants": ["denoised"], "seeds": 1, "steps": 20}, where="it")
    (cell,) = locate(store, cells(spec))
    folder = store / cell.folder
    folder.mkdir()
    (folder / "trial.json").write_text(json.dumps(describe(cell.trial)))
    task = dict.fromkeys(CellTask.__annotations__, "") | {
        "spec": cell.on("cpu").trial.model_dump(mode="json"),
        "key": cell.key,
        "store": str(store),
        "folder": cell.folder,
        "stop_file": str(store / "stop"),
        "tracking_uri": f"sqlite:///{store / 'mlflow.db'}",
        "experiment": "one",
        "trial_function": TRIAL_FUNCTION,
    }
    assert not is_in_use(folder)
    with file_lock(folder / LOCK_FILE):
        assert is_in_use(folder)
        assert run_cell({"cell": task})["outcome"] == "busy"
    assert not is_in_use(folder)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK_FILE, "trial.json"]
    assert not (store / "mlflow.db").exists()
