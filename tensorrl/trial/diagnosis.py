"""Diagnoses a run: measures the effect of single updates on the network, starting from its newest checkpoint."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorrl import system
from tensorrl.errors import InputError
from tensorrl.learning.agent import Agent
from tensorrl.learning.replay import Batch, Replay
from tensorrl.optimizers.fisher import categorical_divergence, gaussian_divergence
from tensorrl.optimizers.grafting import AdamLength, AdamMoments
from tensorrl.trial import checkpoints, diagnostics, folder
from tensorrl.trial.playback import find_checkpoint
from tensorrl.trial.run import build_training
from tensorrl.trial.settings import Settings, make_settings
from tensorrl.trial.spec import TrialSpec, make_spec
from tensorrl.trial.training import Training
from tensorrl.trial.variants import get

STATES = 256
"""States, apart from the batch, on which an update's effect is measured."""
_ADAMS_RATE = 1e-4


def diagnose(run: Path, *, updates: int = 100, threads: int | None = None) -> dict[str, Any]:
    """Makes updates from a run's newest checkpoint, on its replay, without playing, and measures their effect.

    The run's folder is only read.

    Args:
        run: a run's folder.
        updates: number of updates; figures are medians over the last fifth of them.
        threads: threads of PyTorch.

    Returns:
        game, variant, updates (of the checkpoint), `figures` (see `diagnostics.figures`), and `steps`, see
        `StepProbe.summary`.

    Raises:
        InputError: there is no run or no checkpoint, or the checkpoint is damaged or from before the first update.
    """
    if updates < 5:
        raise InputError(f"--updates {updates} (allowed: at least 5)")
    system.use_threads(threads)
    training = restore(run)
    if training.agent.updates == 0:
        raise InputError(f"{run}: its newest checkpoint is from before the first update")
    described = {
        "game": training.game.game,
        "variant": folder.load_json(run / folder.TRIAL_FILE)["variant"],  # type: ignore[index]
    }
    return described | measure(training, updates=updates)


def measure(training: Training, *, updates: int = 100) -> dict[str, Any]:
    """Makes updates on a training's replay, without playing, and measures their effect.

    Returns:
        updates (before these), `figures` and `steps`, as `diagnose` does. Figures of K-FAC are those of the last of
        these updates.
    """
    agent, replay, settings = training.agent, training.replay, training.settings
    found: dict[str, Any] = {"updates": agent.updates, "figures": diagnostics.figures(agent, replay)}
    probe = StepProbe(
        agent, diagnostics.spread(diagnostics.unsampled(replay)[0], STATES), replay, settings.adam_epsilon
    )
    for k in range(updates):
        batch, lookahead = agent.look(replay, settings.batch_size, training.beta)
        probe.before(batch, looking=k >= updates - max(1, updates // 5))
        replay.update_priorities(batch.slots, agent.update(batch, lookahead))
        probe.after(batch)
    # A restored optimizer has made no step yet: its figures are those of the last step here.
    found["figures"] |= diagnostics.optimizer_figures(agent)
    return {**found, "steps": probe.summary()}


def spec_of(run: Path) -> TrialSpec:
    """Returns the trial that a run's folder describes.

    Raises:
        InputError: the folder holds no run, or its description is damaged.
    """
    trial = folder.load_json(run / folder.TRIAL_FILE)
    if trial is None or not isinstance(trial.get("settings"), dict):
        raise InputError(f"{run}: contains no run of tensorrl")
    settings = make_settings({key: value for key, value in trial["settings"].items() if value is not None})
    kept = set(get(trial["variant"]).changes)
    overrides = {
        name: getattr(settings, name)
        for name, field in Settings.model_fields.items()
        if name not in kept and getattr(settings, name) != field.default
    }
    names = ("game", "variant", "seed", "steps")
    return make_spec(**{name: trial[name] for name in names}, overrides=overrides)


def restore(run: Path) -> Training:
    """Returns a run's training at its newest checkpoint, with its emulator closed.

    Raises:
        InputError: see `diagnose`.
    """
    checkpoint = find_checkpoint(run)
    training = build_training(spec_of(run), torch.device("cpu"))
    try:
        checkpoints.restore(training, checkpoint)
    except checkpoints.DamagedCheckpoint as error:
        raise InputError(f"damaged checkpoint: {error}") from None
    finally:
        training.close()
    return training


class StepProbe:
    """Measures updates one by one: how far they move predictions, and how long their steps are compared with Adam's.

    Args:
        agent: the agent that makes the updates.
        others: slots (n,) of further states on which predictions are compared, besides the batch.
        replay: the replay with these states.
        epsilon: Adam's ε.
    """

    def __init__(self, agent: Agent, others: Tensor, replay: Replay, epsilon: float) -> None:
        self.agent, self._stacks = agent, replay.transitions(others).stacks
        self._parameters = dict(agent.network.named_parameters())
        options = AdamLength(epsilon=epsilon)
        self._moments = {name: AdamMoments(options, p.detach().flatten()) for name, p in self._parameters.items()}
        self._divergence = categorical_divergence if agent.network.spec.atoms > 1 else gaussian_divergence
        self._found: dict[str, list[float]] = {"kl_batch": [], "kl_others": [], "churn": []}
        self._lengths: dict[str, list[float]] = {name: [] for name in self._parameters}
        self._looking = False

    @torch.no_grad()
    def before(self, batch: Batch, *, looking: bool) -> None:
        """Must be called before an update. With `looking` False, only the gradients are recorded."""
        self._looking = looking
        if looking:
            self._saved = {name: p.detach().clone() for name, p in self._parameters.items()}
            self._predicted, self._outputs = self._taken(batch), self.agent.network(self._stacks)

    @torch.no_grad()
    def after(self, batch: Batch) -> None:
        """Must be called after the update."""
        for name, p in self._parameters.items():
            if p.grad is not None:
                self._moments[name].observe(p.grad.flatten())
        if not self._looking:
            return
        network = self.agent.network
        outputs = network(self._stacks)
        moved = self._divergence(self._outputs.double(), outputs.double()) / self._outputs.shape[1]
        churn = network.q_values(self._outputs).argmax(1) != network.q_values(outputs).argmax(1)
        self._found["kl_batch"].append(float(self._divergence(self._predicted, self._taken(batch))))
        self._found["kl_others"].append(float(moved))
        self._found["churn"].append(float(churn.float().mean()))
        for name, p in self._parameters.items():
            adams = _ADAMS_RATE * float(self._moments[name].step.norm())
            if adams > 0:
                self._lengths[name].append(float((p.detach() - self._saved[name]).norm()) / adams)

    def summary(self) -> dict[str, Any]:
        """Medians over the updates looked at (of `churn` the mean).

        Returns:
            `kl_batch`: KL divergence of predictions before and after an update on its batch, in nats; `kl_others`: the
            same on other states, a mean over actions; `churn`: share of the other states whose greedy action changed;
            `length_over_adams`: by parameter, the step's L2 length over that of Adam's on the same gradients at rate
            1e-4.
        """
        lengths = {name: statistics.median(values) for name, values in self._lengths.items() if values}
        return {
            "kl_batch": statistics.median(self._found["kl_batch"]),
            "kl_others": statistics.median(self._found["kl_others"]),
            "churn": statistics.fmean(self._found["churn"]),
            "length_over_adams": lengths,
        }

    def _taken(self, batch: Batch) -> Tensor:
        """Predictions (batch, outputs) for the actions taken, in float64."""
        outputs = self.agent.network(batch.stacks)
        rows = torch.arange(len(batch.actions), device=batch.actions.device)
        taken: Tensor = outputs[rows, batch.actions]
        return taken.double().view(len(rows), -1)
