from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

from tensorrl.networks.regression import TensorRegression
from tensorrl.trial.folder import read_progress
from tensorrl.trial.playback import load_network
from tensorrl.trial.run import TrialSpec, run_trial
from tensorrl.trial.spectra import (
    ZERO,
    Spectrum,
    energy_rank,
    energy_ranks,
    load,
    points,
    save,
    singular_values,
)

TENTHS = [k * 10_000 for k in range(11)]


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
    for steps, values in ((200_000, [3, 2, 1]), (0, [2, 1, 1]), (1_000, [5, 1, 0])):
        save(tmp_path, Spectrum(steps, {"matrix": np.array(values, np.float32)}))
    (tmp_path / "spectra" / "00005000.draft").write_text("half")
    read = load(tmp_path)
    assert [spectrum.agent_steps for spectrum in read] == [0, 1000, 200000]
    assert read[1].values["matrix"].tolist() == [5, 1, 0]
    assert read[1].values["matrix"].dtype == np.float32


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
    kept = {spectrum.agent_steps: spectrum.values["matrix"] for spectrum in load(whole)}
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
    np.testing.assert_allclose(load(tmp_path / "run")[2].values["matrix"], wanted, rtol=1e-6)
