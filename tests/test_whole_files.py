"""Files are written whole or not at all, and one lock at a time is held."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tensorrl import files
from tensorrl.trial import spectra

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("place", "write"),
    [
        ("value.json", "files.write_json(place, {'new': 1})"),
        ("text", "files.write_text(place, 'new', sync=False)"),
        ("picture.png", "with files.replacing(place, keep_suffix=True) as draft: draft.write_bytes(b'new')"),
        ("n" * 251 + ".png", "with files.replacing(place, keep_suffix=True) as draft: draft.write_bytes(b'new')"),
    ],
)
def test_a_kill_before_the_rename_leaves_the_old_file_and_a_draft(tmp_path: Path, place: str, write: str) -> None:
    (tmp_path / place).write_text("old")
    code = (
        "import os, pathlib, signal, sys\n"
        "from tensorrl import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"place = pathlib.Path(sys.argv[1])\n{write}"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / place)], cwd=ROOT)
    assert died.returncode == -9
    assert (tmp_path / place).read_text() == "old"
    (draft,) = set(tmp_path.iterdir()) - {tmp_path / place}
    assert files.is_draft(draft)
    assert not files.is_draft(tmp_path / place)
    files.remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / place]


@pytest.mark.parametrize("make", [Path.write_text, lambda draft, _: draft.mkdir()])
def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path, make: Callable[[Path, str], object]) -> None:
    place = tmp_path / "place"
    place.write_text("old")

    def write() -> None:
        with files.replacing(place) as draft:
            make(draft, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("place", "old")]


def test_what_must_outlive_a_power_cut_is_synced_before_it_is_renamed_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str, bytes]] = []
    replace, fsync = os.replace, os.fsync

    def note_sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("sync", "folder", b"") if path.is_dir() else ("sync", "file", path.read_bytes()))
        fsync(descriptor)

    def note_replace(draft: Path, path: Path) -> None:
        done.append(("rename", path.name, b""))
        replace(draft, path)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "kept", "ä\r\n")
    assert done == [("sync", "file", b"\xc3\xa4\r\n"), ("rename", "kept", b""), ("sync", "folder", b"")]
    done.clear()
    files.write_text(tmp_path / "state", "a", sync=False)
    assert done == [("rename", "state", b"")]
    done.clear()
    written = spectra.save(tmp_path, spectra.Spectrum(0, {}))
    assert done[0][:2] == ("sync", "file")
    assert done[0][2] == written.read_bytes()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    files.remove(tmp_path / "link")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["other", "file"]


def test_one_holds_the_lock_and_a_dead_process_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import pathlib, sys\nfrom tensorrl.files import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(files.LockedError), files.file_lock(lock, wait=False):
            pass
        other.kill()
        other.wait()
        with files.file_lock(lock, wait=False):
            pass
