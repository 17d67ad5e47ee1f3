"""No name from outside leads out of the folder that it is joined to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorrl.errors import InputError
from tensorrl.trial.names import inner, inner_part, inner_path

LEADS_OUT = [
    "", "/", "/etc/passwd", "..", "../x", "a/..", "a/../../x", ".", "a/./b", "a//b", "a/", "//host/x", "a\\..\\b",
    "C:\\x", "a\0b", "a\nb", "a\x1b[2Jb", "\udcff", "a/" + "x" * 256, "é" * 128, None, 7, ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", LEADS_OUT)
def test_a_name_that_could_lead_out_is_one_short_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^here: holds the name .*allowed: ") as caught:
        inner(name, where="here")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize(
    "name", ["a", "a/b.json", ".locks/c", "pong-trl-5x-seed0-0123456789ab", "é ü/x y", "...", "x" * 255]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert inner(name, where="here") == name


@given(st.text(alphabet=st.sampled_from("./\\ab\0 \n"), max_size=12))
def test_what_is_let_through_stays_below(name: str) -> None:
    try:
        inner(name, where="here")
    except InputError:
        return
    parts = PurePosixPath(name).parts
    assert parts
    assert "/".join(parts) == name
    assert not {"/", ".."} & set(parts)


def test_a_single_part_has_no_slash() -> None:
    assert inner_part("a", where="here") == "a"
    with pytest.raises(InputError, match="without slashes"):
        inner_part("a/b", where="here")


def test_links_are_followed_within_a_folder_and_not_out_of_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "real").mkdir(parents=True)
    outside.mkdir()
    (folder / "within").symlink_to("real")
    (folder / "out").symlink_to(outside)
    (folder / "away").symlink_to("../outside/not-there-yet")
    (folder / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to(folder)
    assert inner_path(folder, "within/x", where="here") == folder / "within/x"
    assert inner_path(tmp_path / "link", "real/x", where="here") == tmp_path / "link/real/x"
    for name in ("out", "out/x", "away", "away/x", "circle"):
        with pytest.raises(InputError, match=r"^here: .*symbolic link"):
            inner_path(folder, name, where="here")
