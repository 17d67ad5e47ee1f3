"""A trained agent's greedy policy as an ONNX model: a stack of frames in, the action and Q-values out.

The packages `onnx` and `onnxruntime` are an extra (`pip install 'tensorrl[onnx]'`); see decision 21.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorrl import files, games
from tensorrl.errors import InputError
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.spec import NetworkSpec
from tensorrl.networks.torsos import ScatteringTorso
from tensorrl.trial.playback import load_network
from tensorrl.trial.settings import Settings, network_spec

INPUT, OUTPUTS = "stack", ("action", "q_values")
FRAME = 84
_OPSET = 17
_PACKAGES = ("onnx", "onnxruntime")


class GreedyPolicy(nn.Module):
    """The action that a network's mean (no noise) values most, and the values of all.

    Args:
        network: a trained network; it is put into evaluation mode.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network.eval()
        self.stem: nn.Module | None = None
        self.side = 0
        if isinstance(network.torso, ScatteringTorso):
            from tensorrl.networks.matrix_scattering import MatrixScattering

            self.stem, self.side = MatrixScattering(network.torso.stem), network.torso.side

    def forward(self, stack: Tensor) -> tuple[Tensor, Tensor]:
        """Maps stacks (batch, 4, 84, 84) uint8, oldest frame first, to actions (batch,) and Q-values (batch, actions).

        Frames before a game's first are black.
        """
        network = self.network
        frames = stack.reshape(-1, FRAME, FRAME)
        stored = network.torso.encode(frames) if self.stem is None else self._patches(self.stem(frames))
        values = network.q_values(network(stored.reshape(-1, network.spec.stack, *network.torso.stored_shape)))
        return values.argmax(1), values

    def _patches(self, features: Tensor) -> Tensor:
        """Lays features (n, channels, height, width) out as `ScatteringTorso.encode` does."""
        side = self.side
        patches = features[..., : 5 * side, : 5 * side].reshape(-1, features.shape[1], side, 5, side, 5)
        return patches.permute(0, 1, 3, 5, 2, 4).reshape(-1, *self.network.torso.stored_shape)


def available() -> bool:
    """Whether the packages of the extra `onnx` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def to_onnx(network: QNetwork) -> bytes:
    """Returns the greedy policy of a network as a serialized ONNX model.

    Its input `stack` is (batch, 4, 84, 84) uint8, its outputs are `action` (batch,) int64 and `q_values`
    (batch, actions) float32. Factorized layers stay factorized.

    Raises:
        InputError: the extra `onnx` is not installed.
    """
    if not available():
        raise InputError("exporting a policy needs the packages onnx and onnxruntime: pip install 'tensorrl[onnx]'")
    policy, buffer = GreedyPolicy(network).cpu(), io.BytesIO()
    example = torch.zeros(1, network.spec.stack, FRAME, FRAME, dtype=torch.uint8)
    # Without oneDNN every product is an operator that ONNX has.
    with warnings.catch_warnings(action="ignore"), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        torch.onnx.export(
            policy,
            (example,),
            buffer,  # type: ignore[arg-type]  # its older exporter takes a stream, too
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)},
            opset_version=_OPSET,
            dynamo=False,
        )
    return _shared(buffer.getvalue())


def _shared(model: bytes) -> bytes:
    """Keeps one copy of each constant; the exporter writes a fixed filter once for every use."""
    import onnx

    whole = onnx.load_from_string(model)
    nodes = list(whole.graph.node)
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Constant":
            kept = first.setdefault(node.attribute[0].SerializeToString(), node.output[0])
            same[node.output[0]] = kept
    del whole.graph.node[:]
    for node in nodes:
        if same.get(node.output[0], node.output[0]) != node.output[0]:
            continue
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        whole.graph.node.append(node)
    written: bytes = whole.SerializeToString()
    return written


def dense_counterpart(spec: NetworkSpec, actions: int) -> QNetwork:
    """An untrained network of `denoised`, the dense one that a compressed network is measured against.

    Args:
        spec: of the compressed network; a Nature torso is kept.
        actions: of the game.
    """
    settings = Settings(noisy=False, torso=spec.torso, hidden=spec.hidden, atoms=spec.atoms)
    return QNetwork(network_spec(settings, actions))


def export_policy(path: Path, out: Path, *, repeats: int = 200) -> dict[str, Any]:
    """Writes the greedy policy of a run or checkpoint, and compares its size and speed with the dense network's.

    Args:
        path: a run's folder, or a checkpoint.
        out: the file, .onnx.
        repeats: actions that each policy is timed on, in turn.

    Returns:
        game, variant, agent_steps, file, kilobytes (1 kB = 1,000 bytes), milliseconds (median time for one action on
        one core, by onnxruntime), dense_kilobytes and dense_milliseconds.

    Raises:
        InputError: no checkpoint, a file of another kind, or the extra `onnx` is not installed.
    """
    if out.suffix != ".onnx":
        raise InputError(f"--out {out}: the name must end in .onnx")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no such folder")
    network, about = load_network(path)
    game = games.get(about["game"])
    policy, dense = to_onnx(network), to_onnx(dense_counterpart(network.spec, game.actions))
    files.write_bytes(out, policy)
    own, other = (statistics.median(times) for times in time_actions([policy, dense], repeats))
    return {
        "game": game.name,
        "variant": about["variant"],
        "agent_steps": about["agent_steps"],
        "file": str(out),
        "kilobytes": len(policy) / 1e3,
        "milliseconds": own,
        "dense_kilobytes": len(dense) / 1e3,
        "dense_milliseconds": other,
    }


def session(model: bytes | str) -> Any:
    """An onnxruntime session on one core.

    Args:
        model: serialized, or the path of a file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def time_actions(models: list[bytes], repeats: int) -> list[list[float]]:
    """Milliseconds for one action of each model, `repeats` times in turn, so that a busy machine slows all alike."""
    sessions = [session(model) for model in models]
    stack = np.random.default_rng(0).integers(0, 256, (1, 4, FRAME, FRAME), dtype=np.uint8)
    taken: list[list[float]] = [[] for _ in sessions]
    for _ in range(repeats):
        for each, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            each.run(None, {INPUT: stack})
            times.append(1e3 * (time.perf_counter() - start))
    return taken


def main(checkpoint: str, out: str) -> None:
    """Writes the greedy policy of one checkpoint to a file, in a process of its own (see `tracking.model`)."""
    network, _ = load_network(Path(checkpoint))
    files.write_bytes(Path(out), to_onnx(network))


if __name__ == "__main__":
    main(*sys.argv[1:])
