import json

import pytest

from tensorrl.analysis import curves
from tensorrl.errors import InputError


def make_run(folder, game="pong"):
    folder.mkdir()
    (folder / "trial.json").write_text(json.dumps({"key": "k", "game": game, "variant": "rainbow", "seed": 0}))
    lines = [
        {"agent_steps": 10, "episode_return": -21.0},
        {"agent_steps": 20},
        {"agent_steps": 30, "episode_return": -19.0, "evaluation_return": -18.0},
    ]
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_curve_holds_what_was_reported(tmp_path):
    curve = curves.load_curve(make_run(tmp_path / "a"))
    assert curve.returns == [(10, -21.0), (30, -19.0)]
    assert curve.evaluations == [(30, -18.0)]


def test_smoothing_averages_the_last_values():
    assert curves.smooth([1.0, 3.0, 5.0, 7.0], 3) == [1.0, 2.0, 3.0, 5.0]


def test_pictures_are_written_whole(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "breakout")]
    for suffix in (".png", ".svg"):
        curves.draw(runs, tmp_path / f"c{suffix}")
        assert (tmp_path / f"c{suffix}").stat().st_size > 1_000
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("name", "message"), [("c.bmp", "png"), ("no/c.png", "no such folder")])
def test_bad_files_are_refused(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        curves.draw([make_run(tmp_path / "a")], tmp_path / name)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run"):
        curves.load_curve(tmp_path)
