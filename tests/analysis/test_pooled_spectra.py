"""Spectra of many runs: read, pooled and drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tensorrl.analysis import spectrum_figure
from tensorrl.analysis.pooled_spectra import load_runs, pool, rank_table
from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.trial import variants
from tensorrl.trial.spectra import Spectrum, save


def make_run(folder: Path, variant: str = "rainbow", *, changes: dict[str, Any] | None = None, **spectra: Any) -> Path:
    """A run's folder as `tensorrl spectrum` reads it; `spectra` are matrices' singular values at `at_<agent steps>`."""
    folder.mkdir()
    given = variants.resolve(variant, changes).model_dump(mode="json")
    trial = {"key": folder.name, "variant": variant, "game": "road_runner", "settings": given}
    (folder / "trial.json").write_text(json.dumps(trial))
    for name, values in spectra.items():
        array = np.array(values, np.float32)
        save(folder, Spectrum(int(name.removeprefix("at_")), {"matrix": array, "mode_0": array[:2]}))
    return folder


def test_folders_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", at_0=[1, 1])
    bare = make_run(tmp_path / "bare")
    broken = make_run(tmp_path / "broken", at_0=[1, 1])
    data = bytearray((broken / "spectra" / "00000000.npz").read_bytes())
    (broken / "spectra" / "00000000.npz").write_bytes(data[: len(data) // 2])
    odd = make_run(tmp_path / "odd", at_0=[1, 1])
    (odd / "trial.json").write_text("{}")
    for folders, message in (
        ([tmp_path], "no trial.json"),
        ([tmp_path / "nothing"], "no trial.json"),
        ([bare], "contains no spectra"),
        ([broken], "is damaged"),
        ([odd], "is damaged"),
        ([run, run], "the same trial as"),
        ([], "at least one run"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_runs(folders)
        assert "\n" not in str(caught.value)


# Many runs


def test_runs_of_one_variant_are_pooled_and_those_with_other_settings_are_not(tmp_path: Path) -> None:
    runs = load_runs(
        [
            make_run(tmp_path / "a", at_0=[4, 3, 0, 0], at_100=[4, 1, 0, 0]),
            make_run(tmp_path / "b", at_0=[1, 1, 1, 1]),
            make_run(tmp_path / "c", changes={"learning_rate": 0.5}, at_0=[9, 0, 0, 0]),
        ]
    )
    pooled = pool(runs)
    assert {label: {steps: len(each) for steps, each in moments.items()} for label, moments in pooled.items()} == {
        "rainbow": {0: 2, 100: 1},
        "rainbow (learning_rate=0.5)": {0: 1},
    }
    first, second, third = rank_table(runs)
    # [4, 3]: 16 of 25 is 64 %, so two are needed; four equal ones need all four.
    assert first["rank_90"] == {"mean": 3.0, "min": 2, "max": 4}
    assert (first["runs"], first["size"], first["largest"]) == (2, 4, 2.5)
    # [4, 1]: 16 of 17 is 94.1 %.
    assert (second["agent_steps"], second["rank_90"]["max"], second["rank_95"]["min"]) == (100, 1, 2)
    assert third["rank_99"] == {"mean": 1.0, "min": 1, "max": 1}


def test_an_unfolding_that_was_not_kept_is_refused(tmp_path: Path) -> None:
    runs = load_runs([make_run(tmp_path / "a", at_0=[1, 1])])
    assert rank_table(runs, "mode_0")[0]["size"] == 2
    with pytest.raises(InputError, match=r"no unfolding 'mode_5' \(allowed: matrix, mode_0\)"):
        pool(runs, "mode_5")


# The picture


def test_a_histogram_counts_values_a_run_and_leaves_out_what_is_zero() -> None:
    spectra = [np.array([2.5, 0.5, 0.4, 1e-7], np.float32), np.array([1.5, 0.6, 0.0, 0.0], np.float32)]
    counts = spectrum_figure.histogram(spectra, np.array([0.0, 1.0, 2.0, 3.0]))
    assert counts.tolist() == [1.5, 0.5, 0.5]


def test_bins_reach_from_the_bulk_to_the_largest_value() -> None:
    edges = spectrum_figure.bins([np.array([6.0, 0.9, 0.2, 1e-7], np.float32), np.array([1.0, 0.5], np.float32)])
    assert 0.19 < edges[0] < 0.2
    assert 6 < edges[-1] < 6.2
    np.testing.assert_allclose(edges[1:] / edges[:-1], (edges[-1] / edges[0]) ** (1 / (len(edges) - 1)))
    # Of a value 10,000 times smaller than the largest none of the picture's width is left, but it counts.
    tiny = [np.array([1.0, 1e-4], np.float32)]
    edges = spectrum_figure.bins(tiny)
    assert edges[0] > 9e-4
    assert spectrum_figure.histogram(tiny, edges).sum() == 2
    assert (
        spectrum_figure.histogram([np.zeros(3, np.float32)], spectrum_figure.bins([np.zeros(3, np.float32)])).sum() == 0
    )


def test_the_picture_names_variants_moments_and_quantity(tmp_path: Path) -> None:
    dense = np.linspace(1, 0.2, 256)
    runs = load_runs(
        [
            make_run(tmp_path / "a", at_0=dense, at_10000=dense**2),
            make_run(tmp_path / "b", "trl-5x", at_0=[*dense[:112], *[0.0] * 144], at_10000=dense),
        ]
    )
    out = tmp_path / "figure.svg"
    spectrum_figure.draw(runs, out)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", out.read_text())
    for wanted in ("rainbow", "trl-5x", "10,000", "1 run, 256 of 256 values above zero", "at the first moment"):
        assert wanted in texts
    assert any("singular value" in text for text in texts)
    assert any("value stream's hidden layer" in text for text in texts)
    first = out.read_bytes()
    spectrum_figure.draw(runs, out)
    assert out.read_bytes() == first
    assert not list(tmp_path.glob(".*"))


def test_the_command_draws_and_prints_ranks(tmp_path: Path) -> None:
    folders = [str(make_run(tmp_path / name, at_0=[2, 1], at_50=[3, 0.1])) for name in ("a", "b", "c")]
    out = tmp_path / "figure.png"
    done = CliRunner().invoke(app.app, ["spectrum", *folders, "--out", str(out), "--json"])
    rows = json.loads(done.stdout)["ranks"]
    assert [(row["variant"], row["agent_steps"], row["runs"], row["rank_90"]["mean"]) for row in rows] == [
        ("rainbow", 0, 3, 2.0),
        ("rainbow", 50, 3, 1.0),
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
    table = CliRunner().invoke(app.app, ["spectrum", *folders, "--out", str(out)]).stdout
    assert "rank for 95%" in table
    assert "2.0 (2 to 2)" in table


@pytest.mark.parametrize(
    ("name", "message"),
    [("figure.pdf", r"\.png or \.svg"), ("none/figure.png", "no such folder"), ("folder.png", "is a folder")],
)
def test_pictures_that_cannot_be_written_are_refused_first(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    done = CliRunner().invoke(app.app, ["spectrum", str(tmp_path / "no run"), "--out", str(tmp_path / name)])
    assert isinstance(done.exception, InputError)
    assert re.search(message, str(done.exception))


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def full(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    out = tmp_path / "figure.png"
    out.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(InputError, match="No space left"):
        spectrum_figure.draw(load_runs([make_run(tmp_path / "a", at_0=[1, 1])]), out)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "figure.png"]
