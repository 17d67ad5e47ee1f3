"""What Tune left of earlier runs is removed, and nothing else."""

from __future__ import annotations

from pathlib import Path

from tensorrl.sweeps.driver.tuning import _clean


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "inner").mkdir(parents=True)
    (precious / "inner" / "file").write_text("kept")
    tune = tmp_path / "tune"
    tune.symlink_to(precious)
    _clean(tune)
    assert not tune.is_symlink()
    tune.mkdir()
    (tune / "20260101-000000").mkdir()
    (tune / "20260101-000000" / "state.json").touch()
    (tune / "left").touch()
    (tune / "link").symlink_to(precious)
    _clean(tune)
    assert list(tune.iterdir()) == []
    assert (precious / "inner" / "file").read_text() == "kept"
