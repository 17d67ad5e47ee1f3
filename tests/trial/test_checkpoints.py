import json
import os
import shutil

import numpy as np
import pytest
import torch

from tensorrl.learning.replay import Replay
from tensorrl.trial import checkpoints
from tensorrl.trial.run import TrialSpec, build_training
from tensorrl.trial.training import parameters_sha256

CPU = torch.device("cpu")


def make(variant="denoised", **overrides):
    changes = {"learning_starts": 150, "epsilon_decay": 100, **overrides}
    return build_training(TrialSpec(game="road_runner", variant=variant, seed=3, steps=2_000, overrides=changes), CPU)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    training = make()
    training.run(120)
    folder = tmp_path_factory.mktemp("kept") / "checkpoints"
    checkpoints.save(training, folder)
    training.close()
    return folder


@pytest.fixture
def saved(kept, tmp_path):
    """A checkpoint of a test's own, in a folder `checkpoints`."""
    shutil.copytree(kept, tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / "00000120"


def test_packing_keeps_types_and_values():
    tree = {"a": [1, (2.5, None)], "b": {0: torch.arange(3), 1: "x"}, "c": np.eye(2), "d": True, "e": 2**100}
    tensors = {}
    again = checkpoints.unpack(checkpoints.pack(tree, tensors), tensors)
    assert again["a"] == [1, (2.5, None)]
    assert again["b"][1] == "x"
    assert again["d"] is True
    assert again["e"] == 2**100
    assert torch.equal(again["b"][0], torch.arange(3))
    np.testing.assert_array_equal(again["c"].numpy(), np.eye(2))


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(TypeError, match=r"set at state\.x"):
        checkpoints.pack({"x": {1, 2}}, {})


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        ("rainbow", {}),
        ("trl-10x", {}),
        ("denoised", {"optimizer": "kfac", "learning_rate": 0.01}),
        ("trl-10x", {"stem": "scattering", "optimizer": "kfac", "learning_rate": 0.01}),
    ],
)
def test_a_restored_training_goes_on_to_the_same_bits(tmp_path, variant, overrides):
    # From the middle of a game, with a game behind it.
    overrides = {"learning_starts": 360, **overrides}
    first = make(variant, **overrides)
    first.run(400)
    checkpoints.save(first, tmp_path)
    first.run(20)
    path = checkpoints.save(first, tmp_path, {"note": 1})
    first.run(30)
    assert first.episodes > 0
    second = make(variant, **overrides)
    assert checkpoints.restore(second, path) == {"note": 1}
    assert second.steps == 420
    second.run(30)
    assert parameters_sha256(first.agent.network) == parameters_sha256(second.agent.network)
    assert torch.equal(first.replay.frames, second.replay.frames)
    assert first.take_games() == second.take_games()


def test_a_ring_that_has_wrapped_is_restored(tmp_path):
    def tiny():
        training = make(replay_capacity=2_000, learning_starts=1_000)
        frames = training.agent.network.torso
        training.replay = Replay(100, (225, 25), source_shape=(84, 84), encode=frames.encode, n_step=20)
        return training

    first = tiny()
    for _ in range(4):
        first.run(70)
        path = checkpoints.save(first, tmp_path)
    second = tiny()
    checkpoints.restore(second, path)
    used = first.replay.frames[:100]
    assert torch.equal(used, second.replay.frames[:100])


def test_frames_are_written_once(tmp_path):
    training = make(learning_starts=1_000)
    training.run(200)
    checkpoints.save(training, tmp_path)
    before = {path.name for path in (tmp_path / "frames").iterdir()}
    training.run(50)
    checkpoints.save(training, tmp_path)
    after = {path.name for path in (tmp_path / "frames").iterdir()}
    assert before < after
    assert len(after) == 2


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json", "frames"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found(saved, file, damage):
    checkpoints.read(saved)
    victim = next((saved.parent / "frames").iterdir()) if file == "frames" else saved / file
    data = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x40
        victim.write_bytes(data)
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.read(saved)


def test_only_the_newest_checkpoints_and_their_frames_stay(tmp_path):
    training = make()
    for _ in range(4):
        training.run(40)
        checkpoints.save(training, tmp_path, keep=2)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["00000120", "00000160"]
    assert checkpoints.read(tmp_path / "00000120")["training"]["steps"] == 120


def test_nothing_of_a_checkpoint_is_pickled(tmp_path):
    training = make()
    training.run(30)
    path = checkpoints.save(training, tmp_path)
    names = {p.suffix for p in path.iterdir()} | {p.suffix for p in (tmp_path / "frames").iterdir()}
    assert names == {".json", ".safetensors", ".zst"}
    shutil.rmtree(path)
    assert checkpoints.checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["/dev/zero", "../../../etc/hostname", "../frames/../x.zst", "../frames/a-b.zst", "0-1.zst", "extra", "a\0b"],
)
def test_a_manifest_names_nothing_but_a_checkpoint_and_its_frames(saved, name):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {name: "0" * 64}))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"manifest\.json: names .*allowed: state\.json") as caught:
        checkpoints.read(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["state.json", "manifest.json", "frames"])
@pytest.mark.parametrize("kind", ["device", "pipe", "link", "folder"])
def test_what_is_no_plain_file_of_the_checkpoint_is_not_read(saved, tmp_path, file, kind):
    victim = next((saved.parent / "frames").iterdir()) if file == "frames" else saved / file
    kept = tmp_path / "kept"
    victim.rename(kept)
    if kind == "device":
        victim.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(victim)
    elif kind == "link":
        victim.symlink_to(kept)  # the very bytes, elsewhere
    else:
        victim.mkdir()
    with pytest.raises(checkpoints.DamagedCheckpoint) as caught:
        checkpoints.read(saved)
    assert "\n" not in str(caught.value)


def test_what_lies_among_the_frames_is_left_alone(tmp_path):
    training = make()
    training.run(30)
    checkpoints.save(training, tmp_path)
    strays = [tmp_path / "frames" / name for name in ("a-b.zst", "1-.zst", "-.zst", "1-2-3.zst", "notes.zst")]
    # Frames by its name, of which no checkpoint knows.
    strays.append(tmp_path / "frames" / "0000000000-0000000001.zst")
    for stray in strays:
        stray.write_bytes(b"no frames")
    again = make()
    checkpoints.restore(again, checkpoints.checkpoints(tmp_path)[-1])
    again.run(30)
    checkpoints.restore(make(), checkpoints.save(again, tmp_path))
