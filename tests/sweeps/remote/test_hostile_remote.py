"""A remote whose files are of a size or a kind that no store has: refused before anything of it is read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tensorrl.errors import InputError
from tensorrl.sweeps.remote import kinds
from tensorrl.sweeps.remote.files import Remote
from tensorrl.sweeps.remote.pull import pull
from tensorrl.trial.folder import DamagedFile, load_json

VERSION = '{"version": 1}\n'


def test_a_file_that_would_unpack_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_MOST_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".store.json", VERSION)
        for name in ("trial.json", "result.json"):
            archive.writestr(f"cell/{name}", '{"key": "k"}\n')
        archive.writestr("cell/progress.jsonl", bytes(2 << 20))
    with pytest.raises(InputError, match=r"cell/progress.jsonl: has 2,097,152 bytes \(allowed: 1,048,576 at most"):
        pull(f"zip://::file://{tmp_path}/bomb.zip", tmp_path / "store")
    assert not list((tmp_path / "store").rglob("progress.jsonl"))


def test_a_large_file_in_a_folder_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    for name, size in (("cells.json", (256 << 20) + 1), ("state.safetensors", (4 << 30) + 1)):
        with (tmp_path / "remote" / name).open("wb") as file:
            file.truncate(size)
        with pytest.raises(InputError, match=rf"{name}: has {size:,} bytes"):
            Remote(f"file://{tmp_path}/remote").read(name)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    os.mkfifo(tmp_path / "remote" / ".store.json")
    with pytest.raises(InputError, match="Is no regular file"):
        pull(f"file://{tmp_path}/remote", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_description_of_gigabytes_is_damage(tmp_path: Path) -> None:
    with (tmp_path / "trial.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedFile, match="larger than 256 MiB"):
        load_json(tmp_path / "trial.json")
