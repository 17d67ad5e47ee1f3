from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorly
import torch
from gymnasium import spaces
from tensorly.decomposition import tucker
from torch import Tensor

from tensorrl.errors import InputError
from tensorrl.networks.noisy import NoisyLinear
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.rllib import RainbowConfig
from tensorrl.rllib.module import RainbowModule
from tensorrl.trial import checkpoints, warm_start
from tensorrl.trial.playback import load_network
from tensorrl.trial.run import TrialSpec, build_training, describe, make_spec, run_trial
from tensorrl.trial.settings import make_settings, network_spec
from tensorrl.trial.training import build_network, parameters_sha256

SMALL = {"hidden": 24, "atoms": 11}
RANKS = {
    "value_hidden": [12, 2, 3, 10],
    "advantage_hidden": [9, 3, 3, 12],
    "value_output": [7, 7],
    "advantage_output": [12, 4, 8],
}
FULL = {
    "tucker": {
        "value_hidden": [64, 3, 3, 24],
        "advantage_hidden": [64, 3, 3, 24],
        "value_output": [11, 11],
        "advantage_output": [24, 4, 11],
    },
    "tt": {
        "value_hidden": [64, 72, 24],
        "advantage_hidden": [64, 72, 24],
        "value_output": [11],
        "advantage_output": [24, 11],
    },
    "cp": {"value_hidden": [216], "advantage_hidden": [216], "value_output": [11], "advantage_output": [44]},
}


def save_source(folder: Path, variant: str = "rainbow", *, seed: int = 5, steps: int = 3, **changes: Any) -> Path:
    """A checkpoint of a dense agent on breakout (4 actions), in the form that `tensorrl train` leaves."""
    spec = TrialSpec(game="breakout", variant=variant, seed=seed, steps=100, overrides={**SMALL, **changes})
    training = build_training(spec, torch.device("cpu"))
    training.run(steps)
    extra = {
        "network": training.agent.network.spec.model_dump(mode="json"),
        "game": training.game.game,
        "variant": variant,
    }
    return checkpoints.save(training, folder / "checkpoints", extra)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_source(folder)
    return folder


def spec(source: Path | str | None, **changes: Any) -> TrialSpec:
    overrides = {**SMALL, "noisy": False, "factorization": "tucker", "ranks": RANKS, "learning_starts": 30}
    overrides |= {"final_episodes": 1, "evaluation_epsilon": 1.0}
    if source is not None:
        overrides["decompose_from"] = str(source)
    fields = {"game": "breakout", "variant": "denoised", "steps": 100, "threads": 1, "device": "cpu"}
    return TrialSpec(
        **{**fields, "checkpoint_every": 20, "overrides": {**overrides, **changes.pop("overrides", {})}, **changes}
    )


def factorised(factorization: str, ranks: dict[str, list[int]], seed: int = 0) -> QNetwork:
    changes = {**SMALL, "noisy": False, "factorization": factorization, "ranks": ranks}
    return build_network(network_spec(make_settings(changes), actions=4), seed)


def stacks(count: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 4, 225, 25), dtype=torch.uint8, generator=generator)


# The decomposition


@pytest.mark.parametrize("factorization", ["tucker", "tt", "cp"])
def test_at_full_rank_the_q_values_are_those_of_the_source(source: Path, factorization: str) -> None:
    dense = warm_start.load_source(source).network
    network = factorised(factorization, FULL[factorization])
    with torch.no_grad():
        before = network.q_values(network(stacks()))
        warm_start.decompose_into(network, dense)
        wanted, found = (n.q_values(n(stacks())) for n in (dense, network))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (before - wanted).abs().max() > 1e-2
    assert max(warm_start.reconstruction_error(network, dense).values()) < 1e-6


def test_noisynet_gives_its_mean_weights(source: Path) -> None:
    dense = warm_start.load_source(source).network
    assert isinstance(dense.value_hidden, NoisyLinear)
    network = factorised("tucker", FULL["tucker"])
    warm_start.decompose_into(network, dense)
    found = network.value_hidden.weight.flatten(0, 2).t()
    torch.testing.assert_close(found, dense.value_hidden.weight_mu, atol=1e-6, rtol=0)
    torch.testing.assert_close(network.advantage_output.bias.flatten(), dense.advantage_output.bias_mu)


def test_errors_are_those_of_tensorlys_own_decomposition(source: Path) -> None:
    dense = warm_start.load_source(source).network
    network = factorised("tucker", RANKS)
    warm_start.decompose_into(network, dense)
    errors = warm_start.reconstruction_error(network, dense)
    shapes = {
        "value_hidden": (64, 3, 3, 24),
        "advantage_hidden": (64, 3, 3, 24),
        "value_output": (24, 11),
        "advantage_output": (24, 4, 11),
    }
    assert errors.keys() == shapes.keys()
    for name, shape in shapes.items():
        weight = getattr(dense, name).weight_mu.detach().numpy().astype(np.float64).T.reshape(shape)
        # Another library's import may have left TensorLy with another backend.
        with tensorly.backend_context("numpy", local_threadsafe=True):
            approximation = tensorly.tucker_to_tensor(tucker(weight, rank=RANKS[name], n_iter_max=200, tol=1e-10))
        wanted = np.linalg.norm(weight - approximation) / np.linalg.norm(weight)
        assert errors[name] == pytest.approx(wanted, rel=1e-3)


def test_a_tensor_train_of_a_matrix_errs_by_the_singular_values_it_drops(source: Path) -> None:
    dense = warm_start.load_source(source).network
    network = factorised("tt", {**FULL["tt"], "value_output": [4]})
    warm_start.decompose_into(network, dense)
    energy = np.linalg.svd(dense.value_output.weight_mu.detach().numpy(), compute_uv=False).astype(np.float64) ** 2
    wanted = np.sqrt(energy[4:].sum() / energy.sum())
    assert warm_start.reconstruction_error(network, dense)["value_output"] == pytest.approx(wanted, rel=1e-5)


# In a trial


class Kill(BaseException):
    """Stands for a kill: nothing handles it."""


def run_until(out: Path, description: TrialSpec, step: int) -> list[str]:
    said = []

    def on_report(report: dict[str, Any]) -> None:
        if "message" in report:
            said.append(report["message"])
        if report.get("agent_steps", -1) >= step:
            raise Kill

    with pytest.raises(Kill):
        run_trial(description, out, resume=True, on_report=on_report)
    return said


def test_a_warm_start_copies_the_torso_and_the_target_follows(source: Path) -> None:
    training = build_training(spec(source), torch.device("cpu"))
    errors = warm_start.warm_start(training)
    dense, agent = warm_start.load_source(source).network, training.agent
    assert errors == warm_start.reconstruction_error(agent.network, dense)
    for name, values in dense.torso.state_dict().items():
        assert torch.equal(agent.network.torso.state_dict()[name], values)
    for name, values in agent.network.named_parameters():
        assert torch.equal(agent.target.get_parameter(name), values)
        assert values.requires_grad
    assert warm_start.warm_start(build_training(spec(None), torch.device("cpu"))) is None


def test_a_trial_says_what_it_started_from_and_how_near_it_is(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "run"
    said: list[dict[str, Any]] = []
    result = run_trial(spec(source, steps=1), out, on_report=said.append)
    network, about = load_network(out)
    dense = warm_start.load_source(source)
    wanted = warm_start.reconstruction_error(network, dense.network)
    trial = json.loads((out / "trial.json").read_text())
    assert trial["reconstruction_error"] == result["reconstruction_error"] == wanted
    assert about["reconstruction_error"] == wanted
    assert trial["decomposed_from"] == {
        "checkpoint": str(source / "checkpoints" / "00000003"),
        "game": "breakout",
        "variant": "rainbow",
        "agent_steps": 3,
        "parameters_sha256": parameters_sha256(dense.network),
    }
    messages = [report["message"] for report in said if "message" in report]
    assert f"value_hidden {wanted['value_hidden']:.3f}" in messages[1]
    # A step without an update leaves the network as it was decomposed.
    again = factorised("tucker", RANKS, seed=9)
    warm_start.decompose_into(again, dense.network)
    assert result["parameters_sha256"] == parameters_sha256(again)


def test_a_killed_warm_start_goes_on_to_the_same_bits_without_decomposing_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_until(whole, spec(source), 62)
    run_until(resumed, spec(source), 5)
    assert checkpoints.checkpoints(resumed / "checkpoints") == []
    run_until(resumed, spec(source), 45)
    monkeypatch.setattr(warm_start, "decompose_into", None)
    messages = run_until(resumed, spec(source), 62)
    assert "at 40 agent steps" in messages[0]
    ends = [load_network(folder / "checkpoints" / "00000060") for folder in (whole, resumed)]
    assert parameters_sha256(ends[0][0]) == parameters_sha256(ends[1][0])
    assert ends[0][1]["reconstruction_error"] == ends[1][1]["reconstruction_error"] is not None
    assert (whole / "spectra" / "00000000.npz").read_bytes() == (resumed / "spectra" / "00000000.npz").read_bytes()
    trials = [json.loads((folder / "trial.json").read_text()) for folder in (whole, resumed)]
    assert trials[0]["reconstruction_error"] == trials[1]["reconstruction_error"]


def test_the_key_names_the_content_of_the_source_not_its_place(tmp_path: Path, source: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    key = spec(source).key
    assert spec(moved).key == key
    assert spec(source / "checkpoints" / "00000003").key == key
    assert spec(None).key != key
    save_source(tmp_path / "other", seed=6)
    assert spec(tmp_path / "other").key != key
    # A newer checkpoint in the same folder is another source.
    save_source(moved, seed=6, steps=4)
    assert spec(moved).key == spec(tmp_path / "other").key


def test_a_relative_source_is_that_of_the_folder_it_was_named_in(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    description = spec(source.name)
    monkeypatch.chdir(tmp_path)
    assert description.key == spec(source).key
    assert TrialSpec(**description.model_dump(mode="json")).key == description.key


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"game": "pong"}, {"ranks": {**RANKS, "advantage_output": [12, 6, 8]}}, "actions is 4 there .* and 6 here"),
        ({}, {"atoms": 21}, "atoms is 11 there .* and 21 here"),
        ({}, {"hidden": 32}, "hidden is 24 there .* and 32 here"),
        ({}, {"v_max": 5.0}, "v_min is -10.0 there .* and -5.0 here"),
        ({}, {"torso": "nature"}, "torso is data-efficient there .* and nature here"),
        ({}, {"factorization": "none", "ranks": {}}, "setting decompose_from needs factorization=tucker, cp or tt"),
    ],
)
def test_a_source_of_another_kind_is_refused(
    source: Path, changes: dict[str, Any], overrides: dict[str, Any], message: str
) -> None:
    wanted = spec(source, overrides=overrides, **changes)
    for use in (lambda: make_spec(**wanted.model_dump()), lambda: describe(wanted)):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_what_is_no_dense_agents_checkpoint_is_refused(tmp_path: Path, source: Path) -> None:
    save_source(tmp_path / "factorised", "denoised", factorization="tucker", ranks=RANKS)
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    (damaged / "checkpoints" / "00000003" / "state.safetensors").write_bytes(b"")
    (tmp_path / "file").write_text("dear")
    foreign = save_source(tmp_path / "foreign")
    (foreign / "manifest.json").unlink()
    for path, message in (
        (tmp_path / "nothing", "no checkpoint there"),
        (tmp_path / "file", "no checkpoint there"),
        (tmp_path / "factorised", r"is factorised already \(tucker\)"),
        (damaged, "damaged checkpoint"),
        (foreign, "no checkpoint there"),
    ):
        with pytest.raises(InputError, match=f"^setting decompose_from: .*{message}") as caught:
            make_spec(**spec(path).model_dump())
        assert "\n" not in str(caught.value)


def test_a_refused_source_leaves_no_folder(tmp_path: Path, source: Path) -> None:
    with pytest.raises(InputError, match="hidden"):
        run_trial(spec(source, overrides={"hidden": 32}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rllibs_module_starts_from_the_same_weights(source: Path) -> None:
    overrides = spec(source).overrides
    config = RainbowConfig().environment("breakout").variant("denoised", **overrides).debugging(seed=3)
    module = build_module(config)
    training = build_training(spec(source, seed=3), torch.device("cpu"))
    warm_start.warm_start(training)
    assert parameters_sha256(module.network) == parameters_sha256(training.agent.network)
    config.variant("denoised", **{**overrides, "atoms": 21})
    with pytest.raises(InputError, match="atoms is 11 there"):
        build_module(config)


def build_module(config: RainbowConfig) -> RainbowModule:
    return RainbowModule(
        observation_space=spaces.Box(0, 255, (4, 84, 84), np.uint8),
        action_space=spaces.Discrete(4),
        model_config=config.model_config,
    )
