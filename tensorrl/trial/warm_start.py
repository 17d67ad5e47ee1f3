"""Warm start: a factorised network whose weights approximate those of a trained dense one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.networks.noisy import NoisyLinear
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.regression import TensorRegression
from tensorrl.networks.shapes import LayerShape
from tensorrl.networks.spec import NetworkSpec
from tensorrl.trial.playback import find_checkpoint, load_network
from tensorrl.trial.training import Training, parameters_sha256

# The fields that a warm start may change. All others must equal the source's, or its weights would not fit.
_FREE = frozenset({"noisy", "noisy_sigma", "factorization", "ranks"})
_SUPPORT = frozenset({"v_min", "v_max"})


@dataclass(frozen=True)
class Source:
    """A trained network that another one starts from.

    Attributes:
        checkpoint: where it was read.
        network: with its weights, on the CPU; not to be changed.
        game: it was trained on.
        variant: it was trained as.
        agent_steps: it was trained for.
        parameters_sha256: digest of its learned parameters (`tensorrl.trial.training.parameters_sha256`).
    """

    checkpoint: Path
    network: QNetwork
    game: str
    variant: str
    agent_steps: int
    parameters_sha256: str

    def description(self) -> dict[str, str | int]:
        """What a trial's files say of it."""
        return {
            "checkpoint": str(self.checkpoint),
            "game": self.game,
            "variant": self.variant,
            "agent_steps": self.agent_steps,
            "parameters_sha256": self.parameters_sha256,
        }


def load_source(path: str | Path) -> Source:
    """Reads the network that `decompose_from` names.

    Args:
        path: a run's folder (its newest checkpoint is meant), or one checkpoint.

    Raises:
        InputError: there is no checkpoint, it is damaged, or it was not written by `tensorrl train`.
    """
    try:
        checkpoint = find_checkpoint(Path(path))
        manifest = (checkpoint / "manifest.json").read_bytes()
        return _load(checkpoint, hashlib.sha256(manifest).hexdigest())
    except (InputError, OSError) as error:
        raise InputError(f"setting decompose_from: {error}") from None


@lru_cache(maxsize=4)
def _load(checkpoint: Path, _manifest: str) -> Source:
    # A trial's key asks for the digest again and again; the manifest holds digests of all files, so it says enough.
    network, about = load_network(checkpoint)
    network.requires_grad_(False).eval()
    return Source(
        checkpoint, network, about["game"], about["variant"], about["agent_steps"], parameters_sha256(network)
    )


def find_source(path: str | Path | None, spec: NetworkSpec) -> Source | None:
    """The source of a network to be built as `spec` says, checked; None where `path` is.

    Raises:
        InputError: see `load_source`; or the source is factorised itself, or differs in torso, sizes or support, or
            `spec` factorises nothing.
    """
    if path is None:
        return None
    source = load_source(path)
    check(source, spec)
    return source


def check(source: Source, spec: NetworkSpec) -> None:
    """Refuses a source that no network of `spec` can start from.

    Raises:
        InputError: see `find_source`.
    """
    where, own = f"setting decompose_from: {source.checkpoint}", source.network.spec
    if spec.factorization == "none":
        raise InputError("setting decompose_from needs factorization=tucker, cp or tt")
    if own.factorization != "none":
        raise InputError(
            f"{where}: its network is factorised already ({own.factorization}) (allowed: a run with dense layers)"
        )
    ignored = _FREE if spec.value_axes else _FREE | _SUPPORT
    for name in NetworkSpec.model_fields:
        theirs, ours = getattr(own, name), getattr(spec, name)
        if name not in ignored and theirs != ours:
            raise InputError(
                f"{where}: has another network: {name} is {theirs} there ({source.variant} on {source.game}) "
                f"and {ours} here"
            )


def warm_start(training: Training) -> dict[str, float] | None:
    """Starts a training that has not begun from the network that its settings name in `decompose_from`.

    Returns:
        Each dense layer's relative reconstruction error, or None where the settings name no source.

    Raises:
        InputError: see `find_source`.
    """
    network = training.agent.network
    source = find_source(training.settings.decompose_from, network.spec)
    if source is None:
        return None
    decompose_into(network, source.network)
    training.agent.copy_to_target()
    if training.agent.average is not None:
        training.agent.average.begin()
    return reconstruction_error(network, source.network)


@torch.no_grad()
def decompose_into(network: QNetwork, source: QNetwork) -> None:
    """Copies a dense network into a factorised one: its torso, and truncated decompositions of its four dense layers.

    Noisy layers contribute their mean weights. The decompositions are TensorLy's (see `TensorRegression.from_weight`),
    in float64 on the CPU and deterministic.

    Args:
        network: factorised, of the source's sizes (see `check`); changed in place.
        source: dense.
    """
    network.torso.load_state_dict(source.torso.state_dict())
    for shape in network.spec.dense_layers():
        layer: TensorRegression = getattr(network, shape.name)
        weight, bias = mean_weight(getattr(source, shape.name), shape)
        decomposed = TensorRegression.from_weight(
            weight, shape.in_shape, shape.out_shape, factorization=layer.factorization, rank=layer.rank, bias=bias
        )
        layer.load_state_dict(decomposed.state_dict())


@torch.no_grad()
def reconstruction_error(network: QNetwork, source: QNetwork) -> dict[str, float]:
    """How far each dense layer's weight is from the source's: ‖W − Ŵ‖ / ‖W‖ in the Frobenius norm, by layer.

    0 is the source's own weight, 1 as far as no weight at all. Biases are copied, not decomposed, and do not count.
    """
    errors = {}
    for shape in network.spec.dense_layers():
        wanted = mean_weight(getattr(source, shape.name), shape)[0].double()
        found = mean_weight(getattr(network, shape.name), shape)[0].double()
        errors[shape.name] = float((wanted - found).norm() / wanted.norm())
    return errors


@torch.no_grad()
def mean_weight(layer: nn.Module, shape: LayerShape) -> tuple[Tensor, Tensor]:
    """Weight (*in_shape, *out_shape) and bias (*out_shape) of one of the four dense layers, on the CPU.

    Of a noisy layer its mean, of a factorised one the weight that its factors stand for.

    Raises:
        TypeError: a layer of another kind.
    """
    if isinstance(layer, TensorRegression):
        assert layer.bias is not None
        weight, bias = layer.weight, layer.bias
    elif isinstance(layer, NoisyLinear):
        weight, bias = layer.weight_mu.t(), layer.bias_mu
    elif isinstance(layer, nn.Linear):
        weight, bias = layer.weight.t(), layer.bias
    else:
        raise TypeError(f"layer {shape.name}: {type(layer).__name__} has no weight to read")
    return weight.detach().cpu().reshape(*shape.in_shape, *shape.out_shape), bias.detach().cpu().view(shape.out_shape)
