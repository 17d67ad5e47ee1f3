"""Results as data: what is exported comes back as it was, merges, and is refused where it is damaged or differs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_store import PAPER_VARIANTS, make_sweep

from tensorrl.analysis import report
from tensorrl.errors import InputError
from tensorrl.files import file_lock
from tensorrl.sweeps import SweepSpec
from tensorrl.sweeps.driver.check import check_sweep
from tensorrl.sweeps.store.exchange import export, import_
from tensorrl.sweeps.store.layout import lock_file
from tensorrl.sweeps.store.report import sweep_record, write_report
from tensorrl.sweeps.store.status import sweep_status
from tensorrl.tracking.sync import sync_directory
from tensorrl.trial.folder import read_progress, read_result

GAMES = ("road_runner", "pong")
TWO = {name: PAPER_VARIANTS[name] for name in ("rainbow", "trl-5x")}
SECRET = "s3cr3t"
SWEEP = f"name: small\nsettings:\n  decompose_from: /mine/runs/one\ntracking:\n  uri: http://me:{SECRET}@host:5000\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made") / "runs"
    make_sweep(store, "small", GAMES, TWO, range(2))
    (store / ".sweeps" / "small" / "sweep.yaml").write_text(SWEEP)
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def exported(store: Path, tmp_path: Path) -> Path:
    export(str(store), tmp_path / "export", store=store)
    return tmp_path / "export"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    held = json.loads(path.read_text())
    edit(held)
    path.write_text(json.dumps(held))


def test_export_import_export_gives_the_same_bytes_and_the_same_report(
    store: Path, exported: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert len(import_(exported, again).new) == 8
    export("small", tmp_path / "export2", store=again)
    assert contents(tmp_path / "export2") == contents(exported)
    assert len(contents(exported)) == 1 + 8 + 2
    for place, out in ((store, "one"), (again, "two")):
        write_report(sweep_record(place, "small"), place, tmp_path / out)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert any(name.startswith("figures/figure1") for name in contents(tmp_path / "two"))
    for folder in store.glob("*-seed*"):
        assert read_progress(again / folder.name) == read_progress(folder)
        assert read_result(folder).items() <= read_result(again / folder.name).items()  # type: ignore[union-attr]


def test_imported_cells_count_as_finished_and_are_never_run_again(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    import_(exported, again)
    assert {row.state for row in sweep_status(again, "small").rows} == {"finished"}
    spec = SweepSpec(name="other", games=GAMES, variants=tuple(TWO), seeds=2)
    assert check_sweep(spec, again)["left"] == 0


@pytest.mark.slow
def test_imported_cells_go_to_mlflow(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    import_(exported, again)
    outcomes = sync_directory(again, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [outcome.problem for outcome in outcomes] == [None] * 8
    assert all(outcome.lines_sent == 20 for outcome in outcomes)


def test_an_export_holds_no_checkpoint_no_path_and_no_password(store: Path, tmp_path: Path) -> None:
    for folder in store.glob("*-trl-5x-*"):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "net.bin").write_text(SECRET)
        for name in ("trial.json", "result.json"):
            change(folder / name, lambda held: held["settings"].update(decompose_from="/home/" + "me/runs/dense"))
        change(folder / "result.json", lambda held: held.update(source=f"s3://key:{SECRET}@bucket/x"))
    export("small", tmp_path / "out", store=store)
    text = b"".join(contents(tmp_path / "out").values())
    assert b'"decompose_from":"dense"' in text
    assert b"decompose_from: one\n" in text
    assert b"s3://bucket/x" in text
    for word in (SECRET.encode(), b"/home", b"/mine", b"tracking", str(store).encode()):
        assert word not in text


def test_exports_merge_whatever_their_order_and_leave_what_is_there_untouched(made: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    export(str(made), whole, store=made)
    parts = []
    for seed in (0, 1):
        part = Path(shutil.copytree(made, tmp_path / f"seed{seed}"))
        for folder in part.glob(f"*-seed{1 - seed}-*"):
            shutil.rmtree(folder)
        parts.append(part)
    for order in (parts, parts[::-1]):
        out, again = tmp_path / f"out-{order[0].name}", tmp_path / f"store-{order[0].name}"
        for part in order:
            found = export("small", out, store=part)
            assert (len(found.new), found.left_out) == (4, 4)
        assert contents(out) == contents(whole)
        for part in order:
            export(str(part), tmp_path / f"of-{order[0].name}-{part.name}", store=part)
            import_(tmp_path / f"of-{order[0].name}-{part.name}", again)
        export("small", tmp_path / f"last-{order[0].name}", store=again)
        assert contents(tmp_path / f"last-{order[0].name}") == contents(whole)


def test_the_same_result_from_another_machine_is_the_same_result(store: Path, exported: Path, tmp_path: Path) -> None:
    before = contents(exported)
    for path in store.glob("*/result.json"):
        change(path, lambda held: held.update(training_seconds=1.0, machine={"cpu": "another"}))
    assert len(export("small", exported, store=store).same) == 8
    assert contents(exported) == before


def test_another_result_of_the_same_cell_is_said_and_nothing_is_written(
    store: Path, exported: Path, tmp_path: Path
) -> None:
    (one,) = store.glob("pong-trl-5x-seed1-*")
    change(one / "result.json", lambda held: held.update(score=-3.5))
    (other,) = store.glob("pong-rainbow-seed0-*")
    shutil.rmtree(other)
    before = contents(exported), contents(store)
    line = re.escape(f"has another result of {one.name}: score is ")
    with pytest.raises(InputError, match=line + r"\S+ there and -3\.5 here \(allowed: the same result"):
        export("small", exported, store=store)
    with pytest.raises(InputError, match=line + r"-3\.5 there"):
        import_(exported, store)
    assert (contents(exported), contents(store)) == before


def test_a_sweep_that_grew_keeps_one_list_and_new_settings_of_finished_cells_are_refused(
    store: Path, exported: Path
) -> None:
    path = store / ".sweeps" / "small" / "cells.json"
    rows = json.loads(path.read_text())["cells"]
    grown = [*rows, {**rows[0], "seed": 2, "key": "f" * 64, "folder": "road_runner-rainbow-seed2-ffffffff"}]
    path.write_text(json.dumps({"cells": grown}))
    assert export("small", exported, store=store).left_out == 1
    listed = json.loads((exported / "sweeps" / "small" / "cells.json").read_text())["cells"]
    assert [row["key"] for row in listed] == [row["key"] for row in grown]
    other = [{**rows[0], "key": "e" * 64, "folder": "road_runner-rainbow-seed0-eeeeeeee"}]
    path.write_text(json.dumps({"cells": other}))
    with pytest.raises(
        InputError, match="sweep small has rainbow on road_runner, seed 0, finished with other settings"
    ):
        export("small", exported, store=store)


def test_a_cell_that_is_being_run_is_not_written_over(store: Path, exported: Path) -> None:
    (one,) = store.glob("pong-trl-5x-seed1-*")
    (one / "result.json").unlink()
    (store / ".locks").mkdir()
    key = json.loads((one / "trial.json").read_text())["key"]
    with file_lock(lock_file(store, key)), pytest.raises(InputError, match="is being run there"):
        import_(exported, store)
    assert not (one / "result.json").exists()
    assert import_(exported, store).new == [one.name]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def one_digit(path: Path) -> None:
    text = path.read_text()
    start = re.search(r'"final_score":-?', text).end()  # type: ignore[union-attr]
    path.write_text(text[:start] + ("2" if text[start] == "1" else "1") + text[start + 1 :])


def other_name(path: Path) -> None:
    path.rename(path.with_name("pong-trl-5x-seed9-00000000.json"))


def deep(path: Path) -> None:
    path.write_text('{"a":' * 100_000)


def twice(path: Path) -> None:
    shutil.copy(path, path.with_name("again.json"))


def linked(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.json")
    path.symlink_to(path.parents[2] / "elsewhere.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "no cell of an export"),
        (one_digit, "is not what its digest says"),
        (other_name, "it holds the cell pong-trl-5x-seed1"),
        (deep, "no cell of an export"),
        (twice, "it holds the cell pong-trl-5x-seed1"),
        (linked, "symbolic link that leads out"),
        (lambda path: path.write_bytes(b"\xff\x00"), "no cell of an export"),
        (lambda path: path.write_text("[]"), "no cell of an export"),
    ],
)
def test_a_damaged_cell_is_one_line_and_nothing_is_imported(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    (path,) = (exported / "cells").glob("pong-trl-5x-seed1-*")
    damage(path)
    with pytest.raises(InputError, match=said) as caught:
        import_(exported, tmp_path / "again")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again").exists()


def test_names_from_outside_lead_nowhere(exported: Path, tmp_path: Path) -> None:
    path = exported / "sweeps" / "small" / "cells.json"
    whole = path.read_text()
    change(path, lambda held: held["cells"][0].update(folder="../../outside"))
    with pytest.raises(InputError, match="is damaged"):
        import_(exported, tmp_path / "again")
    path.write_text(whole)
    (exported / "sweeps" / "small").rename(exported / "sweeps" / "a sweep\n")
    with pytest.raises(InputError, match="sweeps"):
        import_(exported, tmp_path / "again")
    with pytest.raises(InputError, match="is not an export"):
        import_(tmp_path / "runs", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_report_of_an_imported_sweep_says_where_it_comes_from(exported: Path, tmp_path: Path) -> None:
    import_(exported, tmp_path / "again")
    record = sweep_record(tmp_path / "again", "small")
    parts = [part for section in report.build(record).sections for part in section.parts]
    (origin,) = [part for part in parts if isinstance(part, report.Table) and part.name == "origin"]
    assert origin.rows[0][1].endswith("(UTC)")
