from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tensorrl.analysis import spectrum_figure
from tensorrl.cli import app
from tensorrl.errors import InputError
from tensorrl.networks.regression import TensorRegression
from tensorrl.trial import variants
from tensorrl.trial.folder import read_progress
from tensorrl.trial.playback import load_network
from tensorrl.trial.run import TrialSpec, run_trial
from tensorrl.trial.spectra import (
    ZERO,
    Spectrum,
    energy_rank,
    energy_ranks,
    load_run,
    load_runs,
    points,
    pool,
    rank_table,
    save,
    singular_values,
)

TENTHS = [k * 10_000 for k in range(11)]


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


# Singular values


def test_a_matrix_with_known_singular_values_gives_them_back() -> None:
    rng = np.random.default_rng(0)
    wanted = np.array([7.0, 3.0, 2.0, 0.5, 0.0])
    left, right = (np.linalg.qr(rng.standard_normal((size, 5)))[0] for size in (36, 5))
    weight = (left * wanted @ right.T).reshape(4, 3, 3, 5)
    np.testing.assert_allclose(singular_values(weight, 3)["matrix"], wanted, atol=1e-6)


def unfold(weight: np.ndarray, mode: int) -> np.ndarray:
    # Another library's import may have left TensorLy with another backend.
    with tensorly.backend_context("numpy", local_threadsafe=True):
        return np.asarray(tensorly.unfold(weight, mode))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 2**31))
def test_squares_are_the_eigenvalues_of_each_unfolding_times_its_transpose(dims: list[int], seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal(dims)
    found = singular_values(weight, len(dims) - 1)
    for mode in range(len(dims) - 1 if len(dims) > 2 else 0):
        unfolded = unfold(weight, mode)
        eigenvalues = np.linalg.eigvalsh(unfolded @ unfolded.T)[::-1][: min(unfolded.shape)]
        np.testing.assert_allclose(found[f"mode_{mode}"] ** 2, eigenvalues, rtol=1e-4, atol=1e-4)
    # The unfolding along the only output mode is the matrix, so it is not kept twice.
    matrix = unfold(weight, len(dims) - 1)
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1][: min(matrix.shape)]
    np.testing.assert_allclose(found["matrix"] ** 2, eigenvalues, rtol=1e-4, atol=1e-4)
    assert len(found) == (len(dims) if len(dims) > 2 else 1)


def test_a_fresh_dense_layer_has_the_spectrum_of_a_random_matrix() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Linear(576, 256).weight.detach().t().reshape(64, 3, 3, 256).numpy()
    values = singular_values(weight, 3)["matrix"]
    # Marchenko and Pastur (1967), for entries of variance 1/(3·576): edges √variance·(√576 ± √256).
    assert values.max() == pytest.approx(40 / np.sqrt(3 * 576), rel=0.03)
    assert values.min() == pytest.approx(8 / np.sqrt(3 * 576), rel=0.05)
    assert np.square(values).sum() == pytest.approx(256 / 3, rel=0.01)


def test_a_tucker_layer_has_as_many_nonzero_values_as_its_ranks() -> None:
    layer = TensorRegression((64, 3, 3), (256,), rank=(20, 2, 3, 64), generator=torch.Generator().manual_seed(0))
    values = singular_values(layer.weight.detach().numpy(), 3)
    nonzero = {name: int((v > ZERO * v.max()).sum()) for name, v in values.items()}
    assert nonzero == {"matrix": 64, "mode_0": 20, "mode_1": 2, "mode_2": 3}


# Energy


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_energy_rank_is_the_smallest_that_keeps_enough(values: list[int], energy: float) -> None:
    descending = sorted(values, reverse=True)
    total = sum(v * v for v in descending)
    wanted = next(r for r in range(1, len(values) + 1) if sum(v * v for v in descending[:r]) >= energy * total)
    assert energy_rank(np.array(descending, np.float32), energy) == wanted


def test_equal_values_need_their_share_and_no_value_needs_no_rank() -> None:
    assert energy_ranks(np.ones(100, np.float32)) == {"rank_90": 90, "rank_95": 95, "rank_99": 99}
    assert energy_ranks(np.array([5.0, 0.0]), "layer_") == {"layer_90": 1, "layer_95": 1, "layer_99": 1}
    assert energy_rank(np.zeros(4), 0.9) == 0


def test_truncation_at_the_energy_rank_keeps_the_energy_and_one_less_does_not() -> None:
    weight = np.random.default_rng(1).standard_normal((30, 20))
    rank = energy_rank(singular_values(weight, 1)["matrix"], 0.9)
    u, s, vt = np.linalg.svd(weight)
    kept = [np.linalg.norm((u[:, :r] * s[:r]) @ vt[:r]) ** 2 / np.linalg.norm(weight) ** 2 for r in (rank - 1, rank)]
    assert kept[0] < 0.9 <= kept[1]


# Files


def test_spectra_are_kept_at_the_start_and_at_every_tenth() -> None:
    assert points(100_000) == TENTHS
    assert points(3) == [0, 1, 2, 3]
    assert points(777)[:3] == [0, 78, 155]


def test_what_is_saved_is_read_back_in_the_order_of_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", at_200000=[3, 2, 1], at_0=[2, 1, 1], at_1000=[5, 1, 0])
    (run / "spectra" / "00005000.draft").write_text("half")
    read = load_run(run)
    assert [spectrum.agent_steps for spectrum in read.spectra] == [0, 1000, 200000]
    assert read.spectra[1].values["matrix"].tolist() == [5, 1, 0]
    assert read.spectra[1].values["matrix"].dtype == np.float32
    assert read.label == "rainbow"


class Kill(BaseException):
    """Stands for a kill: nothing handles it."""


def train_until(out: Path, step: int) -> None:
    def on_report(report: dict[str, Any]) -> None:
        if report.get("agent_steps", 0) >= step:
            raise Kill

    spec = TrialSpec(
        game="breakout",
        variant="rainbow",
        steps=90,
        overrides={"learning_starts": 30, "hidden": 48},
        threads=1,
        device="cpu",
        checkpoint_every=20,
    )
    with pytest.raises(Kill):
        run_trial(spec, out, resume=True, on_report=on_report)


def test_a_trial_keeps_its_spectra_and_a_resumed_one_the_same(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_until(whole, 60)
    train_until(resumed, 32)
    train_until(resumed, 60)
    files = sorted((whole / "spectra").iterdir())
    assert [int(path.stem) for path in files] == [0, 9, 18, 27, 36, 45, 54]
    assert [path.name for path in sorted((resumed / "spectra").iterdir())] == [path.name for path in files]
    for path in files:
        assert path.read_bytes() == (resumed / "spectra" / path.name).read_bytes()
    lines = {line["agent_steps"]: line for line in read_progress(whole)}
    kept = {spectrum.agent_steps: spectrum.values["matrix"] for spectrum in load_run(whole).spectra}
    for step, values in kept.items():
        if step:
            wanted = {f"value_hidden_{name}": rank for name, rank in energy_ranks(values).items()}
            assert wanted == {name: value for name, value in lines[step].items() if "_rank_" in name}
    assert not np.array_equal(kept[27], kept[36])


def test_of_noisynet_the_mean_weight_is_kept(tmp_path: Path) -> None:
    train_until(tmp_path / "run", 40)
    network, about = load_network(tmp_path / "run" / "checkpoints" / "00000020")
    assert about["agent_steps"] == 20
    # Nothing is learned in the first 30 steps.
    wanted = torch.linalg.svdvals(network.value_hidden.weight_mu.detach().double())
    np.testing.assert_allclose(load_run(tmp_path / "run").spectra[2].values["matrix"], wanted, rtol=1e-6)


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
        ([bare], "holds no spectra"),
        ([broken], "is damaged"),
        ([odd], "cannot be read"),
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
