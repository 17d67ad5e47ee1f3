"""One trial, from its description to its result on disk; killed at any point, it goes on to the same bits."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from tensorrl import files, games, system
from tensorrl.environments.atari import ACTION_REPEAT, AtariGame
from tensorrl.errors import InputError
from tensorrl.trial import checkpoints, diagnostics, spectra, warm_start
from tensorrl.trial.spec import FULL_STEPS, TrialSpec, describe, make_spec
from tensorrl.trial.training import Training, build_agent, parameters_sha256

__all__ = [
    "Interrupted",
    "Record",
    "TrialSpec",
    "build_training",
    "make_spec",
    "read_progress",
    "run_trial",
]

_EVALUATION_POINTS = (0.8, 0.9, 1.0)
_POINT_EPISODES = 3
_CHUNK = 100

OnReport = Callable[[dict[str, Any]], None]


class Record(Protocol):
    """What keeps a copy of a trial's folder elsewhere, such as MLflow."""

    def poke(self) -> None:
        """Says that the folder has news."""

    def close(self, *, failed: bool = False) -> None:
        """Says that there will be no more, and whether that is for a failure."""


class Interrupted(Exception):
    """The trial was asked to stop; what it had done is in its newest checkpoint."""


def build_training(spec: TrialSpec, device: torch.device) -> Training:
    """Everything a trial runs on, at its beginning but for a warm start."""
    settings, game = spec.settings, games.get(spec.game)
    agent = build_agent(settings, game.actions, spec.seed, device)
    return Training(AtariGame(game.name, spec.seed), agent, settings, spec.steps)


def run_trial(
    spec: TrialSpec,
    out: Path,
    *,
    resume: bool = False,
    record: Callable[[Path], Record] | None = None,
    on_report: OnReport | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Runs a trial to its end and returns what `out/result.json` holds.

    The folder holds `trial.json` (the description), `progress.jsonl` (a line a report), `checkpoints/`, `spectra/` and,
    at the end, `result.json`. A finished trial is not run again.

    Args:
        spec: the trial.
        out: its folder.
        resume: go on from the newest good checkpoint in `out`, or start where there is none.
        record: makes a copy-keeper for the folder, told of every report.
        on_report: called with every report, and with "message" for what a user should know.
        stop: asked every hundred agent steps whether to checkpoint and leave, where signals do not reach the trial.

    Raises:
        InputError: a bad description, or a folder that cannot be used for this trial.
        Interrupted: SIGINT or SIGTERM came, or `stop` said so; the trial can be resumed.
    """
    description = describe(spec)
    device = system.choose_device(spec.device)
    done = _claim(out, description, resume=resume)
    if done is not None:
        return done
    threads = system.use_threads(spec.threads)
    system.keep_freed_memory()
    training = build_training(spec, device)
    keeper, failed = None, False
    try:
        run = _Run(spec, training, out, threads=threads, on_report=on_report or (lambda _: None))
        if resume:
            run.restore()
        if training.steps == 0:
            run.begin()
        run.keeper = keeper = record(out) if record else None
        with _stop_signals() as stopped:
            result = {**description, **run.to_end(lambda: stopped.is_set() or (stop is not None and stop()))}
        files.write_json(out / "result.json", result)
        return result
    except Exception as error:
        failed = not isinstance(error, Interrupted)
        raise
    finally:
        training.game.close()
        if keeper is not None:
            keeper.close(failed=failed)


def _claim(out: Path, description: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """Makes `out` this trial's folder; returns the result where the trial is finished already."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        existing = out / "trial.json"
        if existing.exists():
            other = json.loads(existing.read_text())
            if other.get("key") != description["key"]:
                what = ", ".join(f"{name} {other.get(name)}" for name in ("variant", "game", "seed", "steps"))
                raise InputError(f"{out}: holds another run ({what}); choose another folder")
            if not resume:
                raise InputError(f"{out}: holds this run already; continue it with --resume, or choose another folder")
            result = out / "result.json"
            if result.exists():
                finished: dict[str, Any] = json.loads(result.read_text())
                return finished
            return None
        if not all(files.is_draft(path) for path in out.iterdir()):
            raise InputError(f"{out}: is not empty and holds no run of tensorrl; choose another folder")
        files.write_json(existing, description)
    except OSError as error:
        raise InputError(f"{out}: cannot be used as an output folder ({error.strerror or error})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{out / 'trial.json'}: is not valid JSON ({error})") from None
    return None


class _Run:
    """A trial in progress: the training, the clock and the report file."""

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
        self.progress = out / "progress.jsonl"
        self.folder = out / "checkpoints"
        self.report_every = max(1, min(1_000, spec.steps // 20))
        self.checkpoint_every = spec.checkpoint_every or max(500, spec.steps // 20)
        self.evaluation_points = sorted({max(1, round(p * spec.steps)) for p in _EVALUATION_POINTS})
        self.spectrum_points = spectra.points(spec.steps)
        self.reconstruction_error: dict[str, float] | None = None
        self.training_seconds = 0.0
        self.learning_seconds = 0.0
        self.learning_steps = 0
        self.point_scores: list[float] = []
        self.last_report = (0, 0.0)

    def restore(self) -> None:
        """Goes back to the newest good checkpoint, and to what the report file said then."""
        for checkpoint in reversed(checkpoints.checkpoints(self.folder)):
            try:
                state = checkpoints.read(checkpoint)
                if state["extra"]["network"] != self.training.agent.network.spec.model_dump(mode="json"):
                    raise InputError(f"{checkpoint}: is a checkpoint of another network")
                extra = checkpoints.put_back(self.training, checkpoint, state)
            except checkpoints.DamagedCheckpoint as error:
                self.on_report({"message": f"damaged checkpoint, going back to the one before: {error}"})
                continue
            except ValueError as error:
                raise InputError(f"{checkpoint}: this version cannot go on from it ({error}); begin anew") from None
            self.training_seconds = extra["training_seconds"]
            self.learning_seconds = extra["learning_seconds"]
            self.learning_steps = extra["learning_steps"]
            self.point_scores = extra["point_scores"]
            self.reconstruction_error = extra.get("reconstruction_error")
            self.last_report = tuple(extra["last_report"])
            self.on_report({"message": f"resuming from {checkpoint} at {self.training.steps} agent steps"})
            break
        self._truncate_progress()

    def begin(self) -> None:
        """Does what comes before the first step: the warm start, if any, and the first spectrum."""
        source = self.training.settings.decompose_from
        if source:
            self.on_report({"message": f"decomposing the network of {source}"})
            errors = self.reconstruction_error = warm_start.warm_start(self.training)
            trial = self.out / "trial.json"
            files.write_json(trial, {**json.loads(trial.read_text()), "reconstruction_error": errors})
            listed = ", ".join(f"{layer} {error:.3f}" for layer, error in (errors or {}).items())
            self.on_report({"message": f"relative reconstruction error: {listed}"})
        self._keep_spectrum()

    def to_end(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Runs what is left and returns the final figures."""
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
            episodes = self.training.evaluate(_POINT_EPISODES, seed=self._evaluation_seed(), threads=self.threads)
            scores = [episode.score for episode in episodes]
            self.point_scores += scores
            figures = {"evaluation_return": _mean(scores), "evaluation_episodes": len(scores)}
        if steps in self.spectrum_points:
            figures |= self._keep_spectrum()
        if figures or steps % self.report_every == 0 or steps == self.spec.steps:
            self._report(figures)

    def _keep_spectrum(self) -> dict[str, int]:
        """Keeps the singular values of the value stream's hidden layer; returns the rank its energy needs."""
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
        with self.progress.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.on_report(line)
        if self.keeper is not None:
            self.keeper.poke()

    def _truncate_progress(self) -> None:
        """Drops lines after the present step, whole or torn: they will be written again."""
        if not self.progress.exists():
            return
        kept = [text for text, line in _read_lines(self.progress) if line["agent_steps"] <= self.training.steps]
        files.write_text(self.progress, "".join(f"{text}\n" for text in kept))

    def _checkpoint(self) -> None:
        extra = {
            "training_seconds": self.training_seconds,
            "learning_seconds": self.learning_seconds,
            "learning_steps": self.learning_steps,
            "point_scores": self.point_scores,
            "last_report": list(self.last_report),
            "network": self.training.agent.network.spec.model_dump(mode="json"),
            "game": self.training.game.game,
            "variant": self.spec.variant,
            "reconstruction_error": self.reconstruction_error,
        }
        checkpoints.save(self.training, self.folder, extra)

    def _evaluation_seed(self) -> int:
        # Apart from the seeds of training games, and another for every point of evaluation.
        return self.spec.seed + 2**31 * (1 + self.training.steps)

    def _finish(self) -> dict[str, Any]:
        settings, game = self.training.settings, games.get(self.spec.game)
        episodes = max(1, round(settings.final_episodes * min(1.0, self.spec.steps / FULL_STEPS)))
        self.on_report({"message": f"playing {episodes} games to evaluate the final network"})
        played = self.training.evaluate(episodes, seed=self._evaluation_seed() + 1, threads=self.threads)
        final = [episode.score for episode in played]
        score = _mean(self.point_scores)
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
            "steps_per_second": self.learning_steps / self.learning_seconds if self.learning_seconds else None,
            "peak_memory_bytes": system.peak_memory_bytes(),
            "threads": self.threads,
            "device": str(self.training.agent.device),
            "parameters_sha256": parameters_sha256(self.training.agent.network),
            **({"reconstruction_error": self.reconstruction_error} if self.reconstruction_error else {}),
        }


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a `progress.jsonl`; a last line torn by a kill is left out."""
    return [line for _, line in _read_lines(path)]


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            return
        yield text, line


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns the first SIGINT or SIGTERM into a request to stop at the next good moment; a second one acts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: Any) -> None:
        stopped.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next_multiple(value: int, of: int) -> int:
    return (value // of + 1) * of


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)
