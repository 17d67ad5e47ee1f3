"""Machines without a shared folder: what goes to a remote and comes back, by S3 and by a folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from remote_cells import cell_of, files_of

from tensorrl.errors import InputError
from tensorrl.sweeps.remote.cell_copy import CellCopy, bring_cell
from tensorrl.sweeps.remote.driver_side import check_remote
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.pull import pull
from tensorrl.trial import checkpoints


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
    with pytest.raises(InputError, match="allowed: credentials in the environment") as caught:
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
    cell_of(here, 200)
    copy.send_cell()
    folder = cell_of(here, 400)
    copy.send_cell()
    CellCopy(remote, there, "cell").bring()
    assert files_of(there / "cell") == files_of(folder)
    # What the trial removed here is removed there.
    assert not any("00000100" in name for name in remote.names("cell"))


def test_a_cell_that_is_further_on_here_stays_as_it_is(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    cell_of(here, 300)
    CellCopy(remote, here, "cell").send_cell()
    folder = cell_of(there, 500, bits=b"others")
    before = files_of(folder)
    CellCopy(remote, there, "cell").bring()
    bring_cell(remote, there, "cell")
    assert files_of(folder) == before


def test_a_cell_that_is_further_on_there_takes_the_place_of_this(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    folder = cell_of(here, 500)
    CellCopy(remote, here, "cell").send_cell()
    cell_of(there, 300, bits=b"others")
    CellCopy(remote, there, "cell").bring()
    assert files_of(there / "cell") == files_of(folder)


def test_a_finished_cell_is_neither_trained_nor_sent_again(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    cell_of(here, 300, finished=True)
    CellCopy(remote, here, "cell").send_cell()
    whole = remote.names("cell")
    cell_of(there, 200, bits=b"others")
    copy = CellCopy(remote, there, "cell")
    copy.bring()
    assert json.loads((there / "cell" / "result.json").read_text())["score"] == 1.0
    copy.send_cell()
    assert remote.names("cell") == whole
    assert remote.read("cell/checkpoints/00000300/state.json") == b"bits"


def test_a_checkpoint_without_its_manifest_is_not_there(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    cell_of(here, 300)
    CellCopy(remote, here, "cell").send_cell()
    remote.remove("cell/checkpoints/00000300/manifest.json")
    CellCopy(remote, there, "cell").bring()
    assert [path.name for path in checkpoints.checkpoints(there / "cell" / "checkpoints")] == ["00000200"]


def test_a_manifest_cannot_name_files_elsewhere(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    cell_of(here, 100)
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
    cell_of(here, 100)
    CellCopy(remote, here, "cell").send_cell()
    (tmp_path / "outside").mkdir()
    (there / "cell").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="symbolic link that leads out"):
        pull(remote.uri, there, checkpoints=True)
    assert not list((tmp_path / "outside").iterdir())


def test_reports_come_only_where_they_go_further(remote: Remote, stores: list[Path]) -> None:
    here, there = stores
    folder = cell_of(here, 400)
    CellCopy(remote, here, "cell").send_records()
    bring_cell(remote, there, "cell")
    assert (there / "cell" / "progress.jsonl").read_bytes() == (folder / "progress.jsonl").read_bytes()
    assert not (there / "cell" / "checkpoints").exists()
    cell_of(here, 200)
    CellCopy(remote, here, "cell").send_records()
    bring_cell(remote, there, "cell")
    assert len((there / "cell" / "progress.jsonl").read_text().splitlines()) == 8
