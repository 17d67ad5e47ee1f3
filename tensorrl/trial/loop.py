"""A trial in progress: runs from its current step to its last one, with reports and checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tensorrl import files, games, system
from tensorrl.environments.atari import ACTION_REPEAT
from tensorrl.errors import InputError
from tensorrl.trial import checkpoints, diagnostics, folder, spectra, warm_start
from tensorrl.trial.manifest import CHECKPOINTS
from tensorrl.trial.spec import TrialSpec
from tensorrl.trial.time_left import POINT_GAMES, POINTS, final_games
from tensorrl.trial.training import Training, parameters_sha256

_CHUNK = 100

OnReport = Callable[[dict[str, Any]], None]


class Record(Protocol):
    """A keeper of a copy of a trial's folder elsewhere, such as in MLflow."""

    def poke(self) -> None:
        """Tells the keeper that the folder has changed."""

    def close(self, *, failed: bool = False) -> None:
        """Tells the keeper that nothing more will come, and whether the trial failed."""


class Interrupted(Exception):
    """The trial was asked to stop; its progress is in its newest checkpoint."""


class TrialLoop:
    """A trial in progress: the training, its clock, and what goes into its folder on the way.

    Args:
        spec: the trial.
        training: its training, at the start.
        out: its folder, which this process has claimed.
        threads: threads of PyTorch and ALE, for evaluation.
        on_report: called with every report, and with "message" for messages to the user.

    Attributes:
        keeper: keeps a copy of the folder elsewhere, and is told of every report; None if there is no copy.
    """

    def __init__(
        self,
        spec: TrialSpec,
        training: Training,
        out: Path,
        *,
        threads: int,
        on_report: OnReport,
    ) -> None:
        self.spec, self.training, self.out, self.threads = spec, training, out, threads
        self.on_report = on_report
        self.keeper: Record | None = None
        self.checkpoints = out / CHECKPOINTS
        self.report_every = max(1, min(1_000, spec.steps // 20))
        self.checkpoint_every = spec.checkpoint_every or max(500, spec.steps // 20)
        self.evaluation_points = sorted({max(1, round(p * spec.steps)) for p in POINTS})
        self.spectrum_points = spectra.points(spec.steps)
        self.reconstruction_error: dict[str, float] | None = None
        self.training_seconds = 0.0
        self.learning_seconds = 0.0
        self.learning_steps = 0
        self.evaluation_seconds = 0.0
        self.evaluation_processor_seconds: float | None = 0.0
        self.processor_seconds_before = -time.process_time()
        self.point_scores: list[float] = []
        self.last_report = (0, 0.0)

    def restore(self) -> None:
        """Restores the newest undamaged checkpoint, and cuts the report file back to it."""
        for checkpoint in reversed(checkpoints.checkpoints(self.checkpoints)):
            try:
                state = checkpoints.read(checkpoint)
                if state["extra"]["network"] != self.training.agent.network.spec.model_dump(mode="json"):
                    raise InputError(f"{checkpoint}: is a checkpoint of a different network")
                extra = checkpoints.put_back(self.training, checkpoint, state)
            except checkpoints.DamagedCheckpoint as error:
                self.on_report({"message": f"damaged checkpoint, going back to the one before: {error}"})
                continue
            except ValueError as error:
                raise InputError(f"{checkpoint}: this version cannot continue it ({error}); start a new run") from None
            self.training_seconds = extra["training_seconds"]
            self.learning_seconds = extra["learning_seconds"]
            self.learning_steps = extra["learning_steps"]
            self.evaluation_seconds = extra.get("evaluation_seconds", 0.0)
            # Checkpoints of before it was kept do not know it.
            known = extra.get("evaluation_processor_seconds", None if self.evaluation_seconds else 0.0)
            self.evaluation_processor_seconds = known
            self.processor_seconds_before += extra.get("processor_seconds", 0.0)
            self.point_scores = extra["point_scores"]
            self.reconstruction_error = extra.get("reconstruction_error")
            self.last_report = tuple(extra["last_report"])
            self.on_report({"message": f"resuming from {checkpoint} at {self.training.steps} agent steps"})
            if self.training.agent.reseeded:
                told = "it is from another kind of device: random numbers start anew from the seed and this step"
                self.on_report({"message": told})
            break
        folder.cut_reports(self.out, self.training.steps)

    def begin(self) -> None:
        """Prepares the first step: makes the warm start, if any, and saves the first spectrum."""
        source = self.training.settings.decompose_from
        if source:
            self.on_report({"message": f"decomposing the network of {source}"})
            errors = self.reconstruction_error = warm_start.warm_start(self.training)
            described = {**(folder.load_trial(self.out) or {}), "reconstruction_error": errors}
            files.write_json(self.out / folder.TRIAL_FILE, described)
            listed = ", ".join(f"{layer} {error:.3f}" for layer, error in (errors or {}).items())
            self.on_report({"message": f"relative reconstruction error: {listed}"})
        self._keep_spectrum()

    def to_end(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Runs the rest of the trial and returns the final figures."""
        training, total = self.training, self.spec.steps
        while training.steps < total:
            self._advance(min(_next_multiple(training.steps, _CHUNK), self._next_event()) - training.steps)
            self._report_if_due()
            if training.steps % self.checkpoint_every == 0 or training.steps == total:
                self._checkpoint()
            if training.steps < total and stopped():
                self._checkpoint()
                raise Interrupted(f"stopped at {training.steps} of {total} agent steps")
        return self._finish()

    def _next_event(self) -> int:
        steps = self.training.steps
        events = [_next_multiple(steps, self.report_every), _next_multiple(steps, self.checkpoint_every)]
        events += [point for point in (*self.evaluation_points, *self.spectrum_points) if point > steps]
        return min(*events, self.spec.steps)

    def _advance(self, steps: int) -> None:
        learning = self.training.agent.updates > 0
        start = time.perf_counter()
        self.training.run(steps)
        seconds = time.perf_counter() - start
        self.training_seconds += seconds
        if learning:
            self.learning_seconds += seconds
            self.learning_steps += steps

    def _report_if_due(self) -> None:
        steps = self.training.steps
        figures: dict[str, Any] = {}
        if steps in self.evaluation_points:
            scores = self._evaluate(POINT_GAMES, seed=self._evaluation_seed())
            self.point_scores += scores
            figures = {"evaluation_return": _mean(scores), "evaluation_episodes": len(scores)}
        if steps in self.spectrum_points:
            figures |= self._keep_spectrum()
        if figures or steps % self.report_every == 0 or steps == self.spec.steps:
            self._report(figures)

    def _keep_spectrum(self) -> dict[str, int]:
        """Saves the singular values of the value stream's hidden layer; returns the ranks that keep its energy."""
        network = self.training.agent.network
        shape = network.spec.dense_layers()[0]
        weight, _ = warm_start.mean_weight(getattr(network, shape.name), shape)
        values = spectra.singular_values(weight.numpy(), len(shape.in_shape))
        spectra.save(self.out, spectra.Spectrum(self.training.steps, values))
        return spectra.energy_ranks(values[spectra.MATRIX], f"{shape.name}_rank_")

    def _report(self, figures: dict[str, Any]) -> None:
        training = self.training
        finished = training.take_games()
        before_steps, before_seconds = self.last_report
        seconds = self.training_seconds - before_seconds
        line: dict[str, Any] = {
            "agent_steps": training.steps,
            "frames": training.steps * ACTION_REPEAT,
            "updates": training.agent.updates,
            "episodes": training.episodes,
            "beta": training.beta,
        }
        if finished:
            line["episode_return"] = _mean([score for score, _ in finished])
            line["episode_steps"] = _mean([length for _, length in finished])
        loss = training.agent.take_mean_loss()
        if loss is not None:
            line["loss"] = loss
        line |= diagnostics.figures(training.agent, training.replay)
        if not training.settings.noisy:
            line["epsilon"] = training.epsilon
        line |= figures
        line["steps_per_second"] = (training.steps - before_steps) / seconds if seconds > 0 else 0.0
        line["training_seconds"] = self.training_seconds
        self.last_report = (training.steps, self.training_seconds)
        folder.add_report(self.out, line)
        self.on_report(line)
        if self.keeper is not None:
            self.keeper.poke()

    def _checkpoint(self) -> None:
        extra = {
            "training_seconds": self.training_seconds,
            "learning_seconds": self.learning_seconds,
            "learning_steps": self.learning_steps,
            "evaluation_seconds": self.evaluation_seconds,
            "evaluation_processor_seconds": self.evaluation_processor_seconds,
            "processor_seconds": self._processor_seconds(),
            "point_scores": self.point_scores,
            "last_report": list(self.last_report),
            "network": self.training.agent.network.spec.model_dump(mode="json"),
            "game": self.training.game.game,
            "variant": self.spec.variant,
            "reconstruction_error": self.reconstruction_error,
        }
        folder.sync_reports(self.out)
        checkpoints.save(self.training, self.checkpoints, extra)

    def _evaluate(self, episodes: int, *, seed: int, **options: Any) -> list[float]:
        """Returns the scores of full games; see `play_episodes` for the options."""
        start, busy = time.perf_counter(), time.process_time()
        played = self.training.evaluate(episodes, seed=seed, threads=self.threads, **options)
        self.evaluation_seconds += time.perf_counter() - start
        if self.evaluation_processor_seconds is not None:
            self.evaluation_processor_seconds += time.process_time() - busy
        return [episode.score for episode in played]

    def _processor_seconds(self) -> float:
        """Returns the CPU seconds of all processes of this trial; a killed process counts up to its checkpoint."""
        return self.processor_seconds_before + time.process_time()

    def _evaluation_seed(self) -> int:
        # Distinct from the seeds of training games, and different for every evaluation.
        return self.spec.seed + 2**31 * (1 + self.training.steps)

    def _finish(self) -> dict[str, Any]:
        settings, game = self.training.settings, games.get(self.spec.game)
        episodes = final_games(self.spec.steps, settings.final_episodes)
        self.on_report({"final_games": 0, "of": episodes})
        final = self._evaluate(
            episodes,
            seed=self._evaluation_seed() + 1,
            on_episode=lambda over: self.on_report({"final_games": over, "of": episodes}),
        )
        score, busy = _mean(self.point_scores), self.evaluation_processor_seconds
        return {
            "score": score,
            "human_normalized": games.human_normalized(game.name, score),
            "score_episodes": self.point_scores,
            "final_score": _mean(final),
            "final_human_normalized": games.human_normalized(game.name, _mean(final)),
            "final_episodes": final,
            "updates": self.training.agent.updates,
            "episodes": self.training.episodes,
            "training_seconds": self.training_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            **({} if busy is None else {"evaluation_processor_seconds": busy}),
            "processor_seconds": self._processor_seconds(),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps_per_second": self.learning_steps / self.learning_seconds if self.learning_seconds else None,
            "peak_memory_bytes": system.peak_memory_bytes(),
            "threads": self.threads,
            "device": str(self.training.agent.device),
            "parameters_sha256": parameters_sha256(self.training.agent.network),
            **({"reconstruction_error": self.reconstruction_error} if self.reconstruction_error else {}),
        }


def _next_multiple(value: int, of: int) -> int:
    return (value // of + 1) * of


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)
