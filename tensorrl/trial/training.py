"""The training loop of one trial: one game, one replay, one agent, one update per agent step. It does not use Ray."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensorrl.environments.atari import AtariGame, Frame
from tensorrl.environments.evaluation import Episode
from tensorrl.learning.agent import Agent, make_target
from tensorrl.learning.averaging import Average
from tensorrl.learning.recording import Recorder
from tensorrl.learning.replay import Replay
from tensorrl.learning.resets import Resets
from tensorrl.learning.schedules import linear
from tensorrl.networks.frames import FRAME_SHAPE
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.spec import NetworkSpec
from tensorrl.optimizers.adam import FusedAdam
from tensorrl.optimizers.damping import Damping, GeometricDecay
from tensorrl.optimizers.grafting import AdamLength
from tensorrl.optimizers.kfac import KFAC
from tensorrl.optimizers.protocol import AgentOptimizer
from tensorrl.trial.evaluation import Evaluator
from tensorrl.trial.settings import Settings, network_spec, replay_slots

_BLANK: Frame = np.zeros((84, 84), dtype=np.uint8)


class Training:
    """Interaction and learning of one trial, step by step.

    An agent step sends the action, updates the network while the emulator runs, then takes the frame in. So the update
    never waits for the game, and learns from transitions up to the one before.

    Args:
        game: the emulator.
        agent: acts and learns.
        settings: of the trial.
        steps: agent steps of the whole trial; schedules end there.
    """

    def __init__(self, game: AtariGame, agent: Agent, settings: Settings, steps: int) -> None:
        self.game, self.agent, self.settings, self.total_steps = game, agent, settings, steps
        self.replay = make_replay(settings, agent.network, steps, agent.device, agent.recorder)
        self.steps = 0
        self.episodes = 0
        self.sources: list[bytes] | None = [] if agent.network.torso.keeps_frames else None
        """Every frame written to replay, compressed, where replay keeps features instead; black for a blank one."""
        self.recent: list[tuple[float, int]] = []
        """Score and length (agent steps) of the games finished since `take_games`."""
        self._evaluator: Evaluator | None = None

    def run(self, steps: int) -> None:
        """Runs `steps` more agent steps."""
        agent, replay, game, size = self.agent, self.replay, self.game, self.settings.batch_size
        if self.steps == 0 and game.games == 0:
            self._begin_game()
        for _ in range(steps):
            batch, lookahead = agent.look(replay, size, self.beta) if self._update_due() else (None, None)
            action = agent.act(replay, self.epsilon, lookahead)
            game.send(action)
            if batch is not None:
                replay.update_priorities(batch.slots, agent.update(batch, lookahead))
            outcome = game.receive()
            reward = float(np.sign(outcome.reward))
            writes = replay.writes
            replay.add(action, reward, outcome.frame, terminal=outcome.terminal, over=outcome.over)
            if replay.writes > writes:
                self._keep(outcome.frame)
            self.steps += 1
            if outcome.over:
                self.episodes += 1
                self.recent.append((game.score, game.length))
                self._begin_game()

    def _begin_game(self) -> None:
        frame = self.game.begin_game()
        self.replay.begin_game(frame)
        for _ in range(self.replay.stack - 1):
            self._keep(_BLANK)
        self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        if self.sources is not None:
            self.sources.append(zlib.compress(frame.tobytes(), level=1))

    def source_frames(self, first: int, end: int) -> bytes:
        """Frames (84·84 bytes each) behind what replay was given from the `first` time to before the `end`-th."""
        assert self.sources is not None
        return b"".join(map(zlib.decompress, self.sources[first:end]))

    def _update_due(self) -> bool:
        return (
            self.steps >= self.settings.learning_starts
            and self.steps % self.settings.update_interval == 0
            and self.replay.count > 0
        )

    def encode_again(self, frames: bytes | bytearray) -> Tensor:
        """Stored features of frames (84·84 bytes each) that were kept instead of them; keeps the frames once more."""
        images = np.frombuffer(frames, dtype=np.uint8).reshape(-1, 84, 84)
        for image in images:
            self._keep(image)
        return self.agent.network.torso.encode(torch.from_numpy(images.copy()).to(self.agent.device))

    @property
    def epsilon(self) -> float:
        """ε of the present step; 0 with NoisyNet."""
        s = self.settings
        if s.noisy:
            return 0.0
        return linear(s.epsilon_start, s.epsilon_end, self.steps, begin=s.learning_starts, duration=s.epsilon_decay)

    @property
    def beta(self) -> float:
        """Importance-sampling exponent of the present step, from the first update to the last step."""
        s = self.settings
        duration = self.total_steps - s.learning_starts
        return linear(s.beta_start, s.beta_end, self.steps, begin=s.learning_starts, duration=duration)

    def take_games(self) -> list[tuple[float, int]]:
        """Score and length of the games finished since the last call."""
        games, self.recent = self.recent, []
        return games

    def evaluate(self, episodes: int, *, seed: int, threads: int = 1, **options: Any) -> list[Episode]:
        """Plays full games with the mean of the network that acts (no noise) and the settings' evaluation ε; see
        `Evaluator.play`."""
        network = self.agent.acting
        if self._evaluator is None or self._evaluator.network is not network:
            self._evaluator = Evaluator(network, self.game.game, self.agent.recorder)
        epsilon = self.settings.evaluation_epsilon
        return self._evaluator.play(episodes=episodes, seed=seed, epsilon=epsilon, threads=threads, **options)

    def close(self) -> None:
        """Ends ALE's threads."""
        self.game.close()
        if self._evaluator is not None:
            self._evaluator.close()

    def get_state(self) -> dict[str, Any]:
        """Returns everything that the rest of the trial depends on, except the frames in replay."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "recent": [list(game) for game in self.recent],
            "agent": self.agent.get_state(),
            "replay": self.replay.get_state(),
            "game": self.game.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state that `get_state` returned."""
        self.agent.set_state(state["agent"])
        self.replay.set_state(state["replay"])
        self.game.set_state(state["game"])
        self.steps, self.episodes = state["steps"], state["episodes"]
        self.recent = [(float(score), int(length)) for score, length in state["recent"]]


def make_replay(
    settings: Settings, network: QNetwork, steps: int, device: torch.device, recorder: Recorder | None = None
) -> Replay:
    """The replay that a trial of `steps` agent steps needs: all of them, or the last `replay_capacity`."""
    return Replay(
        replay_slots(settings, steps),
        network.torso.stored_shape,
        network.torso.stored_dtype,
        source_shape=FRAME_SHAPE,
        encode=network.torso.encode,
        stack=network.spec.stack,
        n_step=settings.n_step,
        discount=settings.discount,
        exponent=settings.priority_exponent,
        device=device,
        recorder=recorder,
    )


def make_optimizer(
    settings: Settings, network: QNetwork, seed: int, *, capturable: bool | None = None
) -> KFAC | FusedAdam:
    """The optimizer that settings name, over a network's parameters.

    Args:
        settings: of the trial.
        network: what it trains.
        seed: for what it draws itself.
        capturable: see `KFAC`.
    """
    decay: dict[str, Any] = {
        "weight_decay": settings.weight_decay,
        "decoupled_weight_decay": settings.decoupled_weight_decay,
    }
    if settings.optimizer == "kfac":
        return KFAC(
            network,
            lr=settings.learning_rate,
            damping=_damping(settings),
            relative_damping=settings.kfac_relative_damping,
            factor_decay=settings.kfac_factor_decay,
            curvature_interval=settings.kfac_curvature_interval,
            inverse_interval=settings.kfac_inverse_interval,
            kl_clip=settings.kfac_clip,
            trust_region=settings.kfac_trust_region,
            graft=_graft(settings) if settings.kfac_graft else None,
            eigenbasis=settings.kfac_eigenbasis,
            momentum=settings.kfac_momentum,
            **decay,
            likelihood=network.head.likelihood,
            generator=torch.Generator(network.support.device).manual_seed(seed),
            capturable=capturable,
        )
    return FusedAdam(network.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon, **decay)


def _graft(settings: Settings) -> AdamLength:
    return AdamLength(epsilon=settings.adam_epsilon, by_block=settings.reset_interval is not None)


def _damping(settings: Settings) -> Damping:
    if settings.kfac_damping_end is None:
        return settings.kfac_damping
    return GeometricDecay(settings.kfac_damping, settings.kfac_damping_end, settings.kfac_damping_decay)


def build_network(spec: NetworkSpec, seed: int) -> QNetwork:
    """A network with fresh weights drawn from the seed, whatever PyTorch's global generator is at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(spec)


def build_agent(
    settings: Settings, actions: int, seed: int, device: torch.device, recorder: Recorder | None = None
) -> Agent:
    """A fresh agent for a game with `actions` actions; see `Agent` for the recorder."""
    network = build_network(network_spec(settings, actions), seed).to(device)
    recorder = Recorder(device) if recorder is None else recorder
    optimizer = make_optimizer(settings, network, seed, capturable=recorder.active)
    return make_agent(network, make_target(network), optimizer, settings, seed, recorder)


def make_agent(
    network: QNetwork,
    target: QNetwork,
    optimizer: AgentOptimizer,
    settings: Settings,
    seed: int,
    recorder: Recorder | None = None,
    *,
    average: QNetwork | None = None,
) -> Agent:
    """An agent of these parts, with the settings' intervals and bounds.

    `average` is a copy of the network that may become its average; by default one is made where settings ask for it.
    """
    decay = settings.average_decay
    copied = make_target(network) if decay and average is None else average
    return Agent(
        network,
        target,
        optimizer,
        target_interval=settings.target_interval,
        gradient_norm=settings.gradient_norm,
        average=Average(network, copied, decay) if decay and copied is not None else None,
        resets=None if settings.reset_interval is None else Resets(settings.reset_interval, settings.reset_layers),
        seed=seed,
        recorder=recorder,
    )


def parameters_sha256(network: QNetwork) -> str:
    """Digest of the learned parameters, in the order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
