"""An exported policy plays the game that `evaluate` plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tensorrl import games
from tensorrl.environments.evaluation import play_episodes
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.tracking.model import save_policy
from tensorrl.trial import policy_export, variants
from tensorrl.trial.settings import network_spec
from tensorrl.trial.training import StackedPolicy

GAME = "breakout"


class Watched:
    """Evaluation's own policy, which keeps every stack of frames it decides on, and its decisions."""

    def __init__(self, network: QNetwork) -> None:
        self.policy = StackedPolicy(network)
        self.stacks: list[npt.NDArray[np.uint8]] = []
        self.actions: list[npt.NDArray[np.int64]] = []
        self._stack: npt.NDArray[np.uint8] | None = None

    def __call__(self, frames: npt.NDArray[np.uint8], begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        before = np.zeros((len(frames), 4, 84, 84), np.uint8) if self._stack is None else self._stack
        self._stack = np.concatenate((before[:, 1:], frames[:, None]), 1)
        self._stack[begins, :-1] = 0
        self.stacks.append(self._stack.copy())
        self.actions.append(self.policy(frames, begins).copy())
        return self.actions[-1].copy()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rainbow", "trl-10x", "scattering"])
def test_onnxruntime_and_mlflow_choose_the_actions_of_evaluation_on_1000_stacks(variant: str, tmp_path: Path) -> None:
    import mlflow.pyfunc

    torch.manual_seed(0)
    actions = games.get(GAME).actions
    network = QNetwork(network_spec(variants.resolve(variant), actions)).eval()
    watched = Watched(network)
    # Actions at random, so that games differ; the policy is asked all the same.
    play_episodes(GAME, watched, episodes=8, seed=3, epsilon=1.0, envs=8)
    stacks, wanted = np.concatenate(watched.stacks)[:1_000], np.concatenate(watched.actions)[:1_000]
    assert len(stacks) == 1_000
    assert len(set(wanted.tolist())) > 1
    model = policy_export.to_onnx(network)
    chosen, values = policy_export.session(model).run(None, {"stack": stacks})
    assert (chosen == wanted).all()
    assert values.shape == (1_000, actions)
    save_policy(model, tmp_path / "model", actions=actions)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert loaded.metadata.signature is not None
    found = loaded.predict({"stack": stacks})
    assert (np.asarray(found["action"]).ravel() == wanted).all()


def test_a_compressed_policy_s_file_is_small_beside_the_dense_one_s() -> None:
    spec = network_spec(variants.resolve("trl-10x"), 4)
    small = len(policy_export.to_onnx(QNetwork(spec)))
    dense = len(policy_export.to_onnx(policy_export.dense_counterpart(spec, 4)))
    coefficients = spec.total_coefficients()
    assert 4 * coefficients < small < 4 * coefficients + 30_000
    assert dense > 4 * 415_455
