"""An exported policy plays the game that `evaluate` plays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn.functional import cross_entropy

from tensorrl import games
from tensorrl.cli.trials import export_policy_command
from tensorrl.environments.evaluation import play_episodes
from tensorrl.errors import InputError
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.tracking.model import save_policy
from tensorrl.trial import policy_export, variants
from tensorrl.trial.evaluation import StackedPolicy
from tensorrl.trial.settings import network_spec

GAME = "breakout"


class Recorded(NamedTuple):
    """Games as a policy of evaluation meets them: a row a moment, a column an environment."""

    frames: list[npt.NDArray[np.uint8]]
    begins: list[npt.NDArray[np.bool_]]
    stacks: npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def games_played() -> Recorded:
    """1,000 stacks of games whose actions are random, so that games differ."""
    frames: list[npt.NDArray[np.uint8]] = []
    begins: list[npt.NDArray[np.bool_]] = []
    stacks = [np.zeros((4, 4, 84, 84), np.uint8)]

    class Watch:
        """Sees games go on side by side, a frame of each at every step."""

        batch = 4

        def __init__(self) -> None:
            self.seen, self.new = np.zeros((4, 84, 84), np.uint8), np.zeros(4, bool)

        def see(self, seat: int, frame: npt.NDArray[np.uint8], *, begins: bool) -> None:
            self.seen[seat], self.new[seat] = frame, begins

        def choose(self, seats: list[int], rows: list[int]) -> npt.NDArray[np.int64]:
            frames.append(self.seen.copy())
            begins.append(self.new.copy())
            stack = np.concatenate((stacks[-1][:, 1:], self.seen[:, None]), 1)
            stack[self.new, :-1] = 0
            stacks.append(stack)
            return np.zeros(len(seats), np.int64)

    play_episodes(GAME, Watch(), episodes=8, seed=3, epsilon=1.0, at_once=4)
    assert len(frames) >= 250
    assert sum(new.sum() for new in begins[:250]) > 4  # some games end on the way
    return Recorded(frames[:250], begins[:250], np.concatenate(stacks[1:251]))


def opinionated(variant: str, stacks: npt.NDArray[np.uint8], actions: int) -> QNetwork:
    """A network that prefers different actions on different stacks, which an untrained one seldom does."""
    torch.manual_seed(0)
    network = QNetwork(network_spec(variants.resolve(variant), actions)).eval()
    chosen = torch.from_numpy(stacks[::16])
    stored = network.torso.encode(chosen.reshape(-1, 84, 84)).reshape(-1, 4, *network.torso.stored_shape)
    wanted = torch.arange(len(chosen)) % actions
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network.q_values(network(stored)), wanted).backward()
        optimizer.step()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rainbow", "trl-10x", "scattering"])
def test_onnxruntime_and_mlflow_choose_the_actions_of_evaluation_on_1000_stacks(
    variant: str, games_played: Recorded, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    stacks, actions = games_played.stacks, games.get(GAME).actions
    assert len(stacks) == 1_000
    network = opinionated(variant, stacks, actions)
    policy, wanted = StackedPolicy(network, 4, batch=4), np.zeros((0,), np.int64)  # what `evaluate` plays by
    for frames, begins in zip(games_played.frames, games_played.begins, strict=True):
        known = [policy.see(seat, frames[seat], begins=bool(begins[seat])) for seat in range(4)]
        asked = [seat for seat in range(4) if known[seat] is None]
        actions_now = policy.choose(asked, asked) if asked else []
        answered = dict(zip(asked, actions_now, strict=True))
        wanted = np.append(wanted, [answered.get(seat, known[seat]) for seat in range(4)]).astype(np.int64)
    assert np.bincount(wanted, minlength=actions).max() < 900
    model = policy_export.to_onnx(network)
    session, parts = policy_export.session(model), np.split(stacks, 40)  # what fits the caches
    answers = [session.run(None, {"stack": part}) for part in parts]
    assert (np.concatenate([chosen for chosen, _ in answers]) == wanted).all()
    assert np.concatenate([values for _, values in answers]).shape == (1_000, actions)
    save_policy(model, tmp_path / "model", actions=actions)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert loaded.metadata.signature is not None
    predicted = [np.asarray(loaded.predict({"stack": part})["action"]).ravel() for part in parts]
    assert (np.concatenate(predicted) == wanted).all()


def test_a_compressed_policy_s_file_is_small_beside_the_dense_one_s() -> None:
    spec = network_spec(variants.resolve("trl-10x"), 4)
    small = len(policy_export.to_onnx(QNetwork(spec)))
    dense = len(policy_export.to_onnx(policy_export.dense_counterpart(spec, 4)))
    coefficients = spec.total_coefficients()
    assert 4 * coefficients < small < 4 * coefficients + 30_000
    assert dense > 4 * 415_455


def test_a_scattering_policy_s_file_holds_each_fixed_filter_once() -> None:
    import onnx

    spec = network_spec(variants.resolve("scattering"), 4)
    model = onnx.load_from_string(policy_export.to_onnx(QNetwork(spec)))
    onnx.checker.check_model(model)
    constants = [node.attribute[0].SerializeToString() for node in model.graph.node if node.op_type == "Constant"]
    assert len(constants) == len(set(constants))
    assert model.ByteSize() < 4 * spec.total_coefficients() + 500_000


def test_a_folder_for_the_mlflow_model_must_be_new(tmp_path: Path) -> None:
    out = tmp_path / "policy.onnx"
    with pytest.raises(InputError, match=r"--mlflow-model .*: already exists \(allowed: a new folder\)"):
        export_policy_command(tmp_path, out, mlflow_model=tmp_path)
    assert not out.exists()
