"""The env runner: the game that is trained on, and whole games on demand."""

from __future__ import annotations

from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from tensorrl.rllib.metrics import log_episodes, log_steps
from tensorrl.rllib.watch import EpisodeWatch, WatchedGame
from tensorrl.rllib.whole_games import WholeGames

_RECENT = "recent_games"
_EPISODE_EVENTS = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end")


class AtariEnvRunner(SingleAgentEnvRunner):  # type: ignore[misc]
    """Plays Atari through ALE.

    The training loop drives `game` itself, so that the emulator runs while the network is updated; it counts in
    `training_metrics`. `sample` is RLlib's own, on whole games with true rewards, and counts in `metrics` alone: what
    is sampled, as in evaluation, is no training.

    Attributes:
        game: the training game; None in evaluation.
        training_metrics: figures of the training game.
        recent: score, length in agent steps and seconds of its last games, those that means are taken over.
    """

    game: WatchedGame | None

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        self.game = None
        self.recent: list[tuple[float, float, float]] = []
        super().__init__(config=config, **kwargs)

    def make_env(self) -> None:
        """Creates the games, from the config's `env` and `seed`."""
        self.close_games()
        worker = self.worker_index or 0
        self.env = WholeGames(self.config.env, self.config.seed + 2**33 + worker)
        self.num_envs = 1
        self._needs_initial_reset = True
        created: list[Any] = [self.env]
        if not self.config.in_evaluation and worker == 0:
            self.training_metrics = MetricsLogger(stats_cls_lookup=self.config.stats_cls_lookup, root=False)
            spaces = (self.env.single_observation_space, self.env.single_action_space)
            watched = any(map(self._listens, (*_EPISODE_EVENTS, "on_sample_end")))
            watch = EpisodeWatch(self._tell, spaces) if watched else None
            self.game = WatchedGame(self.config.env, self.config.seed, watch)
            self._watch = watch
            created.append(self.game.vector_env)
        for env in created:
            self._call(
                "on_environment_created",
                metrics_logger=self.metrics,
                env=env,
                env_context=EnvContext({}, worker_index=worker, num_workers=self.num_workers),
            )

    def _call(self, name: str, **arguments: Any) -> None:
        make_callback(
            name,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{name}"),
            kwargs={"env_runner": self, **arguments},
        )

    def _listens(self, name: str) -> bool:
        """Whether any callback is given for an event."""
        base = getattr(RLlibCallback, name)
        by_class = any(getattr(type(callback), name, base) is not base for callback in self._callbacks)
        return by_class or bool(getattr(self.config, f"callbacks_{name}"))

    def _tell(self, name: str, episode: SingleAgentEpisode, parts: list[SingleAgentEpisode]) -> None:
        """Calls the callbacks of an event in the training game."""
        assert self.game is not None
        more = {"prev_episode_chunks": parts} if name == "on_episode_end" else {}
        self._call(
            name,
            episode=episode,
            metrics_logger=self.training_metrics,
            env=self.game.vector_env,
            rl_module=self.module,
            env_index=0,
            **more,
        )

    def adopt(self, module: Any, device: Any) -> None:
        """Takes the learner's module to act with, on the learner's device."""
        self.module, self._device = module, device
        self._env_to_module = self.config.build_env_to_module_connector(env=self.env, spaces=self.spaces, device=device)

    def log_training(self, steps: int, games: list[tuple[float, int]]) -> Any:
        """Counts an iteration of training and returns its figures.

        Args:
            steps: agent steps.
            games: score and length in agent steps of the games that ended.
        """
        assert self.game is not None
        if self._watch is not None:
            samples = self._watch.take_samples()
            self._call("on_sample_end", metrics_logger=self.training_metrics, samples=samples)
        seconds = self.game.take_durations()[-len(games) :] if games else []
        # A game that ended before a restore has no duration.
        seconds = [float("nan")] * (len(games) - len(seconds)) + seconds
        self.recent += [(score, float(length), took) for (score, length), took in zip(games, seconds, strict=True)]
        del self.recent[: -self.config.metrics_num_episodes_for_smoothing]
        log_steps(self.training_metrics, steps, len(games))
        log_episodes(self.training_metrics, self.recent)
        return self.training_metrics.reduce()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and the games that means are taken over."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        return {**state, _RECENT: [list(game) for game in self.recent]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` gave."""
        super().set_state(state)
        if _RECENT in state:
            self.recent = [(score, length, seconds) for score, length, seconds in state[_RECENT]]

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """The arguments to build this runner again."""
        return (), {"config": self.config, "worker_index": self.worker_index}

    def close_games(self) -> None:
        """Ends ALE's threads."""
        if self.env is not None:
            self.env.close()
        if self.game is not None:
            self.game.close()

    def stop(self) -> None:
        """Ends ALE's threads."""
        self.close_games()
