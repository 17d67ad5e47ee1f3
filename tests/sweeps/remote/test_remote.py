"""Machines without a shared folder: what goes to a remote and comes back, by S3 and by a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from bucket import BUCKET, environment, s3_server
from servers import free_port
from short_sweep import short_sweep
from typer.testing import CliRunner

from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.sweeps import cells
from tensorrl.sweeps.driver.worker import CellTask, run_cell
from tensorrl.sweeps.grid.files import make_sweep
from tensorrl.sweeps.remote import claim, trial_side
from tensorrl.sweeps.remote.cell_copy import CellCopy, bring_cell
from tensorrl.sweeps.remote.claim import Claim
from tensorrl.sweeps.remote.driver_side import check_remote
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.kinds import Held
from tensorrl.sweeps.remote.pull import pull
from tensorrl.sweeps.store.layout import claim_name, open_store, sweep_name
from tensorrl.trial import checkpoints
from tensorrl.trial.run import run_trial

ROOT = Path(__file__).parents[3]
SWEEP = short_sweep(name="apart", seeds=1, steps=600)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, s3_server(port):
        for name, value in environment(port).items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["s3", "file"])
def remote(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Remote:
    return Remote(f"{bucket}/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/remote")


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """The stores of two machines."""
    made = [tmp_path / "here", tmp_path / "there"]
    for store in made:
        open_store(store)
    return made


def _cell(store: Path, steps: int, *, bits: bytes = b"bits", finished: bool = False) -> Path:
    """A cell's folder with the checkpoints of the last two hundreds, as a trial leaves them."""
    folder = store / "cell"
    shutil.rmtree(folder, ignore_errors=True)
    for step in range(max(100, steps - 100), steps + 1, 100):
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        frames = folder / "checkpoints" / "frames"
        frames.mkdir(exist_ok=True)
        (frames / f"{0:010d}-{step:010d}.zst").write_bytes(bits * step)
        for name in ("state.json", "state.safetensors"):
            (checkpoint / name).write_bytes(bits)
        named = ["state.json", "state.safetensors", f"../frames/{0:010d}-{step:010d}.zst"]
        (checkpoint / "manifest.json").write_text(json.dumps(dict.fromkeys(named, "digest")))
    (folder / "trial.json").write_text(json.dumps({"key": "k" * 64}))
    (folder / "progress.jsonl").write_text(
        "".join(json.dumps({"agent_steps": s}) + "\n" for s in range(50, steps + 1, 50))
    )
    if finished:
        (folder / "result.json").write_text(json.dumps({"key": "k" * 64, "score": 1.0}))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_are_written_listed_read_and_removed(remote: Remote) -> None:
    assert remote.read("a/b.txt") is None
    assert remote.names() == []
    remote.write("a/b.txt", b"one")
    remote.write("a/b.txt", b"two")
    remote.write(".locks/c.json", b"{}")
    remote.write("a/large", bytes(12_000_000))
    assert remote.names() == [".locks/c.json", "a/b.txt", "a/large"]
    assert remote.names("a") == ["a/b.txt", "a/large"]
    assert remote.names("none") == []
    assert remote.read("a/b.txt") == b"two"
    assert len(remote.read("a/large") or b"") == 12_000_000
    remote.remove("a/b.txt")
    assert remote.names("a") == ["a/large"]
    remote.remove("a/b.txt")


def test_what_arrow_leaves_in_the_place_of_folders_is_no_file(bucket: str, tmp_path: Path) -> None:
    from pyarrow import fs

    remote = Remote(f"{bucket}/{tmp_path.name}")
    files, root = fs.FileSystem.from_uri(remote.uri)
    files.create_dir(f"{root}/.sweeps/s/tune", recursive=True)
    with files.open_output_stream(f"{root}/.sweeps/s/tune/state.json") as out:
        out.write(b"{}")
    remote.write("cell/empty", b"")
    assert remote.names() == [".sweeps/s/tune/state.json", "cell/empty"]
    assert remote.names(".sweeps/s") == [".sweeps/s/tune/state.json"]


@pytest.mark.parametrize("uri", ["runs", "nothing://bucket", "s3:/bucket", "s3://", "gs:///runs"])
def test_what_is_no_remote_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(InputError, match="allowed: a URI such as s3://") as caught:
        Remote(uri)
    assert "\n" not in str(caught.value)


def test_a_password_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="allowed: credentials by the environment") as caught:
        Remote("s3://key:hush@bucket/sweeps")
    assert "hush" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    with pytest.raises(InputError, match=r"remote s3://nowhere/x: cannot be used: ") as caught:
        check_remote(Remote("s3://nowhere/x"))
    assert "\n" not in str(caught.value)


def test_a_remote_of_another_version_is_refused(remote: Remote) -> None:
    check_remote(remote)
    check_remote(remote)
    remote.write(".store.json", b'{"version": 99}\n')
    with pytest.raises(InputError, match="another version"):
        check_remote(remote)


def test_a_cell_goes_there_and_comes_to_another_machine(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    copy = CellCopy(remote, here, "cell")
    _cell(here, 200)
    copy.send_cell()
    folder = _cell(here, 400)
    copy.send_cell()
    CellCopy(remote, there, "cell").bring()
    assert _files(there / "cell") == _files(folder)
    # What the trial removed here is removed there.
    assert not any("00000100" in name for name in remote.names("cell"))


def test_a_cell_that_is_further_on_here_stays_as_it_is(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    _cell(here, 300)
    CellCopy(remote, here, "cell").send_cell()
    folder = _cell(there, 500, bits=b"others")
    before = _files(folder)
    CellCopy(remote, there, "cell").bring()
    bring_cell(remote, there, "cell")
    assert _files(folder) == before


def test_a_cell_that_is_further_on_there_takes_the_place_of_this(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    folder = _cell(here, 500)
    CellCopy(remote, here, "cell").send_cell()
    _cell(there, 300, bits=b"others")
    CellCopy(remote, there, "cell").bring()
    assert _files(there / "cell") == _files(folder)


def test_a_finished_cell_is_neither_trained_nor_sent_again(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    _cell(here, 300, finished=True)
    CellCopy(remote, here, "cell").send_cell()
    whole = remote.names("cell")
    _cell(there, 200, bits=b"others")
    copy = CellCopy(remote, there, "cell")
    copy.bring()
    assert json.loads((there / "cell" / "result.json").read_text())["score"] == 1.0
    copy.send_cell()
    assert remote.names("cell") == whole
    assert remote.read("cell/checkpoints/00000300/state.json") == b"bits"


def test_a_checkpoint_without_its_manifest_is_not_there(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    _cell(here, 300)
    CellCopy(remote, here, "cell").send_cell()
    remote.remove("cell/checkpoints/00000300/manifest.json")
    CellCopy(remote, there, "cell").bring()
    assert [path.name for path in checkpoints.checkpoints(there / "cell" / "checkpoints")] == ["00000200"]


def test_a_manifest_cannot_name_files_elsewhere(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    _cell(here, 100)
    CellCopy(remote, here, "cell").send_cell()
    remote.write("secret", b"secret")
    names = dict.fromkeys(["state.json", "../../../secret", "../../../../escaped"], "digest")
    remote.write("cell/checkpoints/00000100/manifest.json", json.dumps(names).encode())
    CellCopy(remote, there, "cell").bring()
    assert not list(there.rglob("secret"))
    # A checkpoint with such a manifest is none.
    assert not (there / "cell" / "checkpoints").exists()


@pytest.mark.parametrize(
    "name",
    ["cell/spectra/../../../out.npz", ".sweeps/s/../../../out", "../out", "/out", "cell//x", "cell/a\\b"],
)
def test_a_remote_with_a_name_that_leads_out_is_refused_whole(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    with zipfile.ZipFile(tmp_path / "remote.zip", "w") as archive:
        archive.writestr(".store.json", '{"version": 1}\n')
        for file in ("trial.json", "result.json", "progress.jsonl"):
            archive.writestr(f"cell/{file}", '{"key": "k"}\n')
        archive.writestr(name, "from outside")
    said = refused("pull", f"zip://::file://{tmp_path}/remote.zip", "--out", tmp_path / "a" / "store")
    assert "holds the name" in said
    assert [path.name for path in tmp_path.iterdir()] == ["remote.zip"]


def test_no_link_in_a_store_leads_what_is_pulled_out_of_it(remote: Remote, stores: list[Path], tmp_path: Path) -> None:
    here, there = stores
    check_remote(remote)
    _cell(here, 100)
    CellCopy(remote, here, "cell").send_cell()
    (tmp_path / "outside").mkdir()
    (there / "cell").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="symbolic link that leads out"):
        pull(remote.uri, there, checkpoints=True)
    assert not list((tmp_path / "outside").iterdir())


def test_reports_come_only_where_they_go_further(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    folder = _cell(here, 400)
    CellCopy(remote, here, "cell").send_records()
    bring_cell(remote, there, "cell")
    assert (there / "cell" / "progress.jsonl").read_bytes() == (folder / "progress.jsonl").read_bytes()
    assert not (there / "cell" / "checkpoints").exists()
    _cell(here, 200)
    CellCopy(remote, here, "cell").send_records()
    bring_cell(remote, there, "cell")
    assert len((there / "cell" / "progress.jsonl").read_text().splitlines()) == 8


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.4)


@pytest.mark.usefixtures("quick")
def test_a_claim_is_kept_lost_and_inherited(remote: Remote, stores: list[Path]) -> None:
    here, there = (Claim(remote, ".locks/k.json", store) for store in stores)
    assert here.take()

    def holder_lives(seconds: float) -> None:
        time.sleep(seconds)
        here.keep()

    assert not there.take(sleep=holder_lives)
    assert there.take()  # nobody kept it
    assert there.sure
    here.keep()
    assert here.lost
    here.release()  # of another's claim
    there.keep()
    assert not there.lost
    there.release()
    started = time.monotonic()
    assert Claim(remote, ".locks/k.json", stores[0]).take()
    assert Claim(remote, ".locks/k.json", stores[0]).take(), "whoever shares the store holds its lock"
    assert time.monotonic() - started < 1.0


class _Taken(Exception):
    """Somebody holds the claim, for which `take` would wait."""


def _would_wait(seconds: float) -> None:
    raise _Taken


def _contend(remote: Remote, name: str, stores: list[Path]) -> list[bool]:
    """Takes one claim from two machines, each of which has looked at it before the other writes."""
    looked, claims = threading.Barrier(len(stores)), [Claim(remote, name, store) for store in stores]

    def take(one: Claim) -> bool:
        look, first = one.remote.look, [True]

        def look_together(name: str) -> Held | None:
            found = look(name)
            if first.pop() if first else False:
                looked.wait(60)
            return found

        one.remote = Remote(remote.uri)
        one.remote.look = look_together  # type: ignore[method-assign]
        try:
            return one.take(sleep=_would_wait)
        except _Taken:
            return False

    with ThreadPoolExecutor(len(stores)) as pool:
        won = list(pool.map(take, claims))
    # Who won holds it, and nobody else thinks so.
    assert [claim.sure for claim in claims] == won
    assert [claim.renew() for claim in claims if claim.sure] == [True]
    return won


def test_of_two_claims_at_one_moment_one_wins_always(remote: Remote, stores: list[Path]) -> None:
    tries, wins = 200 if remote.uri.startswith("s3:") else 50, [0, 0]
    for number in range(tries):
        name = f".locks/{number}.json"
        # Every other cell was held before, by a process that let it go or by a dead one of an empty claim.
        if number % 2:
            remote.write(name, (b"{}", b"not even JSON", b"")[number % 3])
        won = _contend(remote, name, stores)
        assert sum(won) == 1, f"try {number}: {won}"
        wins[won.index(True)] += 1
    assert sum(wins) == tries


@pytest.mark.usefixtures("quick")
def test_of_two_that_take_a_dead_ones_claim_over_one_gets_it(
    remote: Remote, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.2)
    open_store(tmp_path / "third")
    for number in range(10):
        name = f".locks/{number}.json"
        assert Claim(remote, name, tmp_path / "third").take()
        claims = [Claim(remote, name, store) for store in stores]
        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(lambda one: one.take(sleep=lambda _: time.sleep(0.05)), claims))
        assert sum(won) == 1, f"try {number}: {won}"


def test_a_claim_whose_answer_was_lost_is_still_its_holders(remote: Remote, stores: list[Path]) -> None:
    one = Claim(remote, ".locks/k.json", stores[0])
    assert one.take()
    swap = remote.swap

    def lose_the_answer(name: str, content: bytes, held: Held | None) -> bool:
        swap(name, content, held)
        remote.swap = swap  # type: ignore[method-assign]
        raise OSError("no answer")

    remote.swap = lose_the_answer  # type: ignore[method-assign]
    one.keep()
    assert one.renew()
    assert one.sure


def test_a_holder_that_slept_too_long_sends_nothing_until_it_has_asked(
    remote: Remote, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Claim(remote, ".locks/k.json", stores[0])
    assert one.take()
    assert one.sure
    now = claim._now()
    monkeypatch.setattr(claim, "_now", lambda: now + claim.STALE_SECONDS)
    assert not one.sure
    assert not one.lost
    assert one.renew()
    assert one.sure


@pytest.mark.parametrize("kind", ["zip", "memory"])
def test_what_has_no_conditional_writes_takes_no_claims(kind: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "remote.zip", "w"):
        pass
    uri = {"zip": f"zip://::file://{tmp_path}/remote.zip", "memory": "memory://x"}[kind]
    with pytest.raises(InputError, match=r"cannot be used: .*no claim there could be exact \(allowed"):
        check_remote(Remote(uri))


def _task(store: Path, remote: Remote) -> CellTask:
    spec = make_sweep(SWEEP, where="sweep")
    cell = cells(spec)[0]
    return CellTask(
        spec=cell.on("cpu").trial.model_dump(mode="json"),
        key=cell.key,
        store=str(store),
        folder=cell.folder,
        stop_file=str(store / "stop"),
        tracking_uri=f"sqlite:///{store.parent}/mlflow.db",
        experiment="apart",
        trial_function="tensorrl.trial.run:run_trial",
        remote=remote.uri,
        claim=claim_name(cell.key),
        remote_stop=sweep_name("apart", "stop"),
        scheduler={},
        tensorboard=False,
    )


def test_a_trial_killed_on_one_machine_ends_on_another_with_the_same_bits(
    bucket: str, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(f"{bucket}/killed")
    check_remote(remote)
    here, there = stores
    task = _task(here, remote)
    code = (
        "import json, sys\nfrom tensorrl.sweeps.driver.worker import run_cell\n"
        "run_cell({'cell': json.loads(sys.argv[1])})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(task)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 300
    while not any(name.endswith("/manifest.json") for name in remote.names(task["folder"])):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (here / task["folder"] / "result.json").exists()

    monkeypatch.setattr(claim, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(claim, "BEAT_SECONDS", 1.0)
    shutil.rmtree(here)
    assert run_cell({"cell": _task(there, remote)})["outcome"] == "done"
    lines = (there / task["folder"] / "progress.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["agent_steps"] for line in lines})

    undisturbed = run_trial(cells(make_sweep(SWEEP, where="sweep"))[0].on("cpu").trial, tmp_path / "undisturbed")
    # Whoever comes later has it without training.
    found = pull(remote.uri, tmp_path / "pulled", checkpoints=True)
    assert found["cells"] == found["finished"] == 1
    result = json.loads((tmp_path / "pulled" / task["folder"] / "result.json").read_text())
    assert result["parameters_sha256"] == undisturbed["parameters_sha256"]
    assert result["final_episodes"] == undisturbed["final_episodes"]
    newest = checkpoints.checkpoints(tmp_path / "pulled" / task["folder"] / "checkpoints")[-1]
    assert newest.name == "00000600"
    checkpoints.read(newest)


def test_a_trial_leaves_when_the_sweep_stops_or_another_machine_has_its_cell(
    bucket: str, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_side, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(trial_side, "BEAT_SECONDS", 0.1)
    remote = Remote(f"{bucket}/stopped")
    task = _task(stores[0], remote)
    remote.write(task["remote_stop"], b"stop\n")
    assert run_cell({"cell": task})["outcome"] == "stopped"
    assert any(name.endswith("/manifest.json") for name in remote.names(task["folder"]))

    remote.write(task["remote_stop"], b"run \n")
    taken = json.dumps({"store": "another", "token": "another", "beat": 1}).encode()
    monkeypatch.setattr(Claim, "take", lambda self: (self.remote.write(self.name, taken), True)[1])
    before = remote.names(task["folder"])
    assert run_cell({"cell": task})["outcome"] == "busy"
    assert remote.names(task["folder"]) == before
    assert remote.read(task["claim"]) == taken


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that is to be refused, and returns the line that says why."""

    def run(*arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["tensorrl", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    return run


def test_a_remote_that_cannot_serve_is_one_line_before_anything_runs(
    bucket: str, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "apart.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    given = ("sweep", file, "--out", tmp_path / "store")
    assert "is not a URI (allowed: a URI such as s3://" in refused(*given, "--remote", "runs")
    assert "MLflow at sqlite:///" in refused(*given, "--remote", f"{bucket}/x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "s3://nowhere/x: cannot be used" in refused(*given, "--remote", "s3://nowhere/x")
    assert "s3://nowhere/x: cannot be read" in refused(*given, "--remote", "s3://nowhere/x", "--check")
    assert "holds no store" in refused("pull", f"{bucket}/nothing-here", "--out", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_check_counts_what_the_remote_has_and_writes_nothing_here(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(f"{bucket}/{tmp_path.name}")
    file = tmp_path / "apart.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    cell = cells(make_sweep(SWEEP, where="sweep"))[0]
    for name, content in (("trial.json", {"key": cell.key}), ("result.json", {"key": cell.key, "score": 1.0})):
        remote.write(f"{cell.folder}/{name}", json.dumps(content).encode())
    monkeypatch.setenv("TENSORRL_REMOTE", remote.uri)
    said = CliRunner().invoke(
        app.app, ["sweep", str(file), "--check", "--json", "--out", str(tmp_path / "store")], catch_exceptions=False
    )
    found = json.loads(said.stdout)
    assert (found["cells"], found["finished"]) == (1, 1)
    assert not (tmp_path / "store").exists()
