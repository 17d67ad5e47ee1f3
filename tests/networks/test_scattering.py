"""The scattering stem against Kymatio, and the properties the agent relies on."""

from __future__ import annotations

import copy
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from matplotlib.image import imread
from torch import Tensor

from tensorrl.analysis.scattering_figure import draw
from tensorrl.errors import InputError
from tensorrl.networks.scattering import ScatteringStem, build_filters

GAMES = ("pong", "breakout", "ms_pacman", "seaquest")
SETTINGS = list(itertools.product((1, 2, 3), (2, 4, 8)))


@functools.cache
def game_frames(game: str, count: int = 3) -> Tensor:
    """Every 20th frame of a game played at random, (count, 84, 84) uint8."""
    env = AtariVectorEnv(game, num_envs=1, reward_clipping=False)
    env.reset(seed=1)
    actions = np.random.default_rng(1).integers(env.single_action_space.n, size=20 * count)
    frames = [env.step(np.array([action]))[0][0, -1].copy() for action in actions]
    env.close()
    return torch.from_numpy(np.stack(frames[19::20]))


def all_frames() -> Tensor:
    return torch.cat([game_frames(game) for game in GAMES])


def kymatio(frames: Tensor, J: int, L: int, max_order: int = 1) -> Tensor:
    reference = ScatteringTorch2D(J=J, shape=tuple(frames.shape[1:]), L=L, max_order=max_order)
    coefficients: Tensor = reference(frames.float() / 255)
    return coefficients


def largest_relative_error(ours: Tensor, reference: Tensor) -> float:
    """Largest error of any coefficient, relative to the largest coefficient of its frame and channel."""
    error = (ours - reference).abs().amax((2, 3)) / reference.abs().amax((2, 3))
    return error.max().item()


def stripes(degrees: float) -> Tensor:
    """A frame of parallel lines 6 pixels apart, at an angle counter-clockwise from horizontal."""
    y, x = torch.meshgrid(torch.arange(84.0), torch.arange(84.0), indexing="ij")
    across = np.sin(np.radians(degrees)) * x + np.cos(np.radians(degrees)) * y
    return (127.5 + 100 * torch.sin(2 * np.pi * across / 6)).to(torch.uint8)


@pytest.mark.parametrize(("J", "L"), SETTINGS)
def test_coefficients_equal_kymatio_on_game_frames(J: int, L: int) -> None:
    frames = all_frames()
    assert len(frames.float().std((1, 2)).unique()) > len(GAMES)  # The games did show something, and it changed.
    ours = ScatteringStem(J, L).transform(frames)
    reference = kymatio(frames, J, L)
    assert ours.shape == reference.shape == (len(frames), 1 + J * L, 84 // 2**J, 84 // 2**J)
    assert largest_relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize(("J", "L"), [(1, 4), (2, 4), (3, 2), (4, 3)])
def test_second_order_equals_kymatio_in_its_channel_order(J: int, L: int) -> None:
    frames = all_frames()[::3]
    stem = ScatteringStem(J, L, max_order=2)
    ours = stem.transform(frames)
    assert ours.shape[1] == stem.channels == 1 + J * L + L * L * J * (J - 1) // 2
    assert largest_relative_error(ours, kymatio(frames, J, L, max_order=2)) < 1e-5


@settings(max_examples=12)
@given(
    rows=st.integers(8, 70), columns=st.integers(8, 70), J=st.integers(1, 3), L=st.integers(1, 5), seed=st.integers(0)
)
def test_any_frame_shape_equals_kymatio(rows: int, columns: int, J: int, L: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, rows, columns), dtype=np.uint8)
    frames = torch.from_numpy(pixels)
    stem = ScatteringStem(J, L, (rows, columns))
    ours = stem.transform(frames)
    assert ours.shape[1:] == stem.out_shape
    assert largest_relative_error(ours, kymatio(frames, J, L)) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("at_once", [1, 5])
def test_coefficients_on_a_gpu_equal_kymatio(at_once: int) -> None:
    frames = all_frames()
    ours = ScatteringStem().cuda().transform(frames.cuda(), at_once=at_once)
    assert ours.is_cuda
    assert largest_relative_error(ours.cpu(), kymatio(frames, 2, 4)) < 1e-5


def test_a_frame_has_the_same_bits_alone_and_in_any_batch() -> None:
    stem, frames = ScatteringStem(), all_frames()
    alone = torch.cat([stem.encode(frame.unsqueeze(0)) for frame in frames])
    for size in (2, 3, 5, 12):
        together = torch.cat([stem.encode(batch) for batch in frames.split(size)])
        assert torch.equal(together, alone)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))
    assert torch.equal(stem.encode(frames[order]), alone[order])


def test_a_rebuilt_stem_gives_the_same_bits() -> None:
    stem, frames = ScatteringStem(), all_frames()
    expected = stem.encode(frames)
    build_filters.cache_clear()
    rebuilt = ScatteringStem()
    rebuilt.load_state_dict(stem.state_dict())
    assert torch.equal(rebuilt.encode(frames), expected)
    assert torch.equal(copy.deepcopy(stem).encode(frames), expected)


def test_frames_transformed_at_once_differ_by_rounding_only() -> None:
    stem, frames = ScatteringStem(3, 4, max_order=2), all_frames()
    one_by_one = stem.transform(frames)
    for at_once in (5, 100):
        assert largest_relative_error(stem.transform(frames, at_once=at_once), one_by_one) < 1e-5


def test_no_frames_give_no_features() -> None:
    assert ScatteringStem().encode(torch.empty(0, 84, 84, dtype=torch.uint8)).shape == (0, 9, 21, 21)


def test_features_are_what_replay_stores() -> None:
    stem = ScatteringStem()
    features = stem(all_frames())
    assert features.dtype == stem.stored_dtype == torch.float16
    assert features.shape[1:] == stem.out_shape == (9, 21, 21)
    assert features[0].nbytes == 7_938
    assert 100_000 * features[0].nbytes < 2**30


def test_features_are_the_coefficients_over_their_gain_within_half_precision() -> None:
    stem, frames = ScatteringStem(), all_frames()
    exact = kymatio(frames, 2, 4) * stem.gain
    # Half precision rounds to 11 bits, and to multiples of 2^-24 near zero.
    torch.testing.assert_close(stem.encode(frames).float(), exact, rtol=2**-11 + 1e-5, atol=1e-6)


@pytest.mark.parametrize(("J", "L", "max_order"), [(1, 2, 1), (2, 4, 1), (2, 8, 1), (3, 4, 2)])
def test_features_of_natural_noise_average_one(J: int, L: int, max_order: int) -> None:
    # Gaussian fields of power 1/|ω|², a quarter of the model frame's contrast so that none of it is clipped: whatever
    # follows a modulus is a quarter, too. No closed form: the fields are drawn, transformed by Kymatio and averaged.
    stem = ScatteringStem(J, L, max_order=max_order)
    rows, columns = stem.padded_shape
    distance = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns))
    distance[0, 0] = np.inf
    fields = np.fft.ifft2(np.fft.fft2(np.random.default_rng(0).normal(size=(40, rows, columns))) / distance).real
    fields *= 255 / 4 / np.sqrt(12 * (fields**2).mean())
    frames = torch.from_numpy(np.clip(127.5 + fields[:, :84, :84], 0, 255).astype(np.float32)).round().to(torch.uint8)
    means = (kymatio(frames, J, L, max_order) * stem.gain).mean((0, 2, 3))
    means[1:] *= 4
    first = 1 + J * L
    torch.testing.assert_close(means[:first], torch.ones(first), rtol=0, atol=0.06)
    torch.testing.assert_close(means[first:], torch.ones(len(means) - first), rtol=0, atol=0.2)


@pytest.mark.parametrize(("J", "L", "max_order", "ratio"), [(1, 8, 1, 4), (2, 4, 1, 4), (3, 8, 1, 5), (3, 8, 2, 12)])
def test_features_have_comparable_scales_on_games(J: int, L: int, max_order: int, ratio: float) -> None:
    stem, frames = ScatteringStem(J, L, max_order=max_order), all_frames()
    typical = stem.encode(frames).float().square().mean((0, 2, 3)).sqrt()
    assert typical.max() < ratio * typical.min()
    assert typical.min() > 0.2
    raw = stem.transform(frames).square().mean((0, 2, 3)).sqrt()
    assert raw.max() > 2 * ratio * raw.min()


def test_features_of_the_harshest_frames_are_finite_and_small() -> None:
    y, x = torch.meshgrid(torch.arange(84), torch.arange(84), indexing="ij")
    patterns = [torch.ones(84, 84), (x + y) % 2, x // 2 % 2, y // 2 % 2, x < 42, (x + y) // 3 % 2]
    frames = torch.stack([255 * pattern.to(torch.uint8) for pattern in patterns])
    for J, L in ((1, 8), (2, 4), (3, 2)):
        features = ScatteringStem(J, L).encode(frames)
        assert torch.isfinite(features).all()
        assert features.max() < 20


def test_a_frame_of_one_grey_has_an_average_and_no_waves() -> None:
    frame = torch.full((1, 84, 84), 204, dtype=torch.uint8)
    features = ScatteringStem().encode(frame).float()[0]
    # 0.8 of white, over the 0.5 expected; Kymatio's low-pass adds to 1.00003.
    torch.testing.assert_close(features[0], torch.full((21, 21), 1.6), rtol=1e-3, atol=0)
    assert features[1:].abs().max() < 1e-4


@pytest.mark.parametrize("L", [2, 4, 8])
def test_the_channel_labelled_with_an_orientation_answers_to_its_lines(L: int) -> None:
    stem = ScatteringStem(2, L)
    for index in range(L):
        angle = 180 * index / L
        response = stem.encode(stripes(angle).unsqueeze(0)).float()[0, :, 5:16, 5:16].mean((1, 2))
        channels = [i for i, label in enumerate(stem.labels) if label.startswith("2 px")]
        strongest = max(channels, key=lambda channel: response[channel].item())
        assert stem.labels[strongest] == f"2 px {angle:g}°"


@pytest.mark.parametrize("game", GAMES)
def test_small_translations_change_features_less_than_pixels(game: str) -> None:
    frames = game_frames(game)
    inner = slice(1, -1)  # Leaves out what a roll brings in from the other side.

    def relative_change(features: Tensor, moved: Tensor) -> float:
        return ((moved - features).norm() / features.norm()).item()

    for shift in ((0, 1), (1, 0), (1, 1)):
        moved = frames.roll(shift, dims=(1, 2))
        pixels = frames.float() - frames.float().mean((1, 2), keepdim=True)
        pixel_change = relative_change(pixels, moved.float() - moved.float().mean((1, 2), keepdim=True))
        changes = []
        for J in (1, 2, 3):
            stem = ScatteringStem(J, 4)
            waves = stem.encode(frames).float()[:, 1:, inner, inner]
            changes.append(relative_change(waves, stem.encode(moved).float()[:, 1:, inner, inner]))
        # The wider the average, the less a pixel of movement matters.
        assert changes[0] > changes[1] > changes[2]
        assert changes[1] < 0.6 * pixel_change
        assert changes[2] < 0.4 * pixel_change


@pytest.mark.parametrize(("J", "L"), SETTINGS)
def test_filters_are_a_frame_within_kymatios_bounds(J: int, L: int) -> None:
    stem = ScatteringStem(J, L)
    rows, columns = stem.padded_shape
    # Energy a real wave of each frequency keeps: that of the stem's own filters, the low-pass from its response.
    wavelets = torch.cat([stem.get_buffer(f"wavelets_0_{j}")[..., 0] for j in range(J)]).double() * rows * columns
    mirrored = wavelets.flip((1, 2)).roll((1, 1), dims=(1, 2))
    lowpass = np.exp(
        -((2 * np.pi * 0.8 * 2 ** (J - 1)) ** 2)
        * (np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.fftfreq(columns) ** 2)
        / 2
    )
    kept = lowpass**2 + ((wavelets**2 + mirrored**2) / 2).sum(0).numpy()
    inside = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)) < 0.4
    # Kymatio's filters, not an exactly tight frame: they keep 0.46 to 1.08 of the energy below 0.4 cycles a pixel,
    # 0.12 at least in the corners of the spectrum.
    assert kept.max() < 1.08
    assert kept[inside].min() > 0.46
    assert kept.min() > 0.12


def test_transform_does_not_expand_distances() -> None:
    stem, frames = ScatteringStem(), all_frames()
    padded = torch.nn.functional.pad(frames.float() / 255, (4, 4, 4, 4), mode="reflect")
    coefficients = 4 * stem.transform(frames)  # One coefficient stands for 4×4 pixels.
    for a, b in itertools.combinations(range(len(frames)), 2):
        assert (coefficients[a] - coefficients[b]).norm() <= (padded[a] - padded[b]).norm()


def test_nothing_is_learned_and_only_settings_are_saved() -> None:
    stem = ScatteringStem()
    assert list(stem.parameters()) == []
    state = stem.state_dict()
    assert sum(value.nbytes for value in state.values()) == 40
    ScatteringStem().load_state_dict(state)
    with pytest.raises(InputError, match=r"\[2, 4, 84, 84, 1\], this stem has \[2, 8, 84, 84, 1\]"):
        ScatteringStem(L=8).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"J": 0}, "J=0, L=4 must be at least 1"),
        ({"L": 0}, "J=2, L=0 must be at least 1"),
        ({"J": 3, "shape": (7, 84)}, "7×84 must measure at least 2.J = 8"),
        ({"max_order": 3}, "max_order=3 is not allowed"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ScatteringStem(**arguments)


@pytest.mark.parametrize("frames", [torch.zeros(1, 84, 84), torch.zeros(84, 84).byte(), torch.zeros(1, 84, 80).byte()])
def test_frames_of_another_kind_are_refused(frames: Tensor) -> None:
    with pytest.raises(InputError, match=r"must be \(n, 84, 84\) torch.uint8"):
        ScatteringStem().encode(frames)


def test_fewer_than_one_frame_at_once_is_refused() -> None:
    with pytest.raises(InputError, match="at_once=0"):
        ScatteringStem().transform(game_frames("pong"), at_once=0)


@pytest.mark.parametrize("max_order", [1, 2])
def test_figure_shows_frame_and_features(tmp_path: Path, max_order: int) -> None:
    stem = ScatteringStem(2, 2, max_order=max_order)
    path = tmp_path / "seen.png"
    draw(game_frames("ms_pacman")[0], stem, path)
    with_game = imread(path)
    draw(torch.zeros(84, 84, dtype=torch.uint8), stem, path)
    assert with_game.shape == imread(path).shape
    # The frame and its eight or so maps fill much of the image: a black frame must look different there.
    assert (np.abs(with_game - imread(path)).max(-1) > 0.1).mean() > 0.2


def test_figure_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"type '\.docx' \(allowed: .*png"):
        draw(game_frames("pong")[0], ScatteringStem(), tmp_path / "seen.docx")
