"""Plays games with a checkpoint's network, and films them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tensorrl import games, system
from tensorrl.errors import InputError
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.spec import NetworkSpec
from tensorrl.trial import checkpoints
from tensorrl.trial.evaluation import Watch, evaluate
from tensorrl.trial.manifest import CHECKPOINTS
from tensorrl.trial.settings import Settings


def find_checkpoint(path: Path) -> Path:
    """Returns the checkpoint that a path names: the path itself, or the newest checkpoint in a run's folder.

    Raises:
        InputError: there is no checkpoint.
    """
    if (path / "manifest.json").is_file():
        return path
    for folder in (path / CHECKPOINTS, path):
        found = checkpoints.checkpoints(folder)
        if found:
            return found[-1]
    raise InputError(f"{path}: no checkpoint there (expected a run's folder, or a folder with manifest.json)")


def load_network(path: Path) -> tuple[QNetwork, dict[str, Any]]:
    """Returns the network of a checkpoint that acts, and the values stored with it (game, variant, network, …).

    Raises:
        InputError: there is no checkpoint, it is damaged, or it was not written by `tensorrl train`.
    """
    checkpoint = find_checkpoint(path)
    try:
        state = checkpoints.read(checkpoint)
    except checkpoints.DamagedCheckpoint as error:
        raise InputError(f"damaged checkpoint: {error}") from None
    extra = state["extra"]
    if "network" not in extra:
        raise InputError(f"{checkpoint}: was not written by `tensorrl train`")
    network = QNetwork(NetworkSpec.model_validate(extra["network"]))
    network.load_state_dict(checkpoints.acting_network(state))
    return network, {**extra, "agent_steps": state["training"]["steps"]}


def evaluate_checkpoint(
    path: Path,
    *,
    episodes: int,
    seed: int = 0,
    video: Path | None = None,
    threads: int | None = None,
    on_episode: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Plays full games with the network of a checkpoint.

    Args:
        path: a run's folder, or a checkpoint.
        episodes: number of games.
        seed: seed of no-ops and random actions.
        video: the .mp4 or .gif file to which the first game is recorded while it is played.
        threads: threads of PyTorch and ALE.
        on_episode: called with the number of finished games whenever a game ends.

    Returns:
        game, variant, agent_steps, mean, human_normalized, and episodes with score and steps.

    Raises:
        InputError: see `load_network`; or fewer than one episode, or a video in another format.
    """
    if episodes < 1:
        raise InputError(f"--episodes {episodes} (allowed: at least 1)")
    if video is not None:
        _check_video(video)
    network, about = load_network(path)
    with nullcontext() if video is None else _filming(video, about["game"], seed) as film:
        played = evaluate(
            network,
            about["game"],
            episodes=episodes,
            seed=seed,
            epsilon=Settings.model_fields["evaluation_epsilon"].default,
            threads=system.use_threads(threads),
            watch=film,
            on_episode=on_episode,
        )
    mean = float(np.mean([episode.score for episode in played]))
    return {
        "game": about["game"],
        "variant": about["variant"],
        "agent_steps": about["agent_steps"],
        "mean": mean,
        "human_normalized": games.human_normalized(about["game"], mean),
        "episodes": [episode._asdict() for episode in played],
    }


def _check_video(video: Path) -> None:
    # Its packages, for pictures and films, are loaded where a film is asked for.
    from tensorrl.trial.film import FORMATS

    if video.suffix not in FORMATS:
        raise InputError(f"--video {video}: the name must end in {' or '.join(FORMATS)}")
    if not video.parent.is_dir():
        raise InputError(f"--video {video}: no such folder")
    if video.is_dir():
        raise InputError(f"--video {video}: is a folder")


def _filming(video: Path, game: str, seed: int) -> AbstractContextManager[Watch]:
    from tensorrl.trial.film import filming

    return filming(video, game, seed)
