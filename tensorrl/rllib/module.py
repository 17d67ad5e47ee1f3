"""The Q-network as an RLModule: exploration, inference and training passes under RLlib's names."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.util.debug import log_once
from torch import Tensor

from tensorrl.learning.agent import make_target
from tensorrl.learning.schedules import linear
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.spec import NetworkSpec
from tensorrl.trial import warm_start
from tensorrl.trial.settings import Settings
from tensorrl.trial.training import build_network

# RLlib warns of one of its own classes whenever it builds any module.
log_once("RLModule(config=[RLModuleConfig object])")

ATOMS, QF_LOGITS, QF_PROBS, QF_PREDS = "atoms", "qf_logits", "qf_probs", "qf_preds"
OUTPUTS = "outputs"
"""What the network gives: logits (batch, actions, atoms), or Q-values (batch, actions)."""


class RainbowModule(TorchRLModule, QNetAPI, TargetNetworkAPI, InferenceOnlyAPI):  # type: ignore[misc]
    """A `QNetwork` and its target; and its average, which then acts, where the settings ask for one.

    `model_config` holds "network" (a `NetworkSpec` as a dict), "settings" (a `Settings` as a dict) and "seed".
    Observations are stacks of Atari frames, (batch, 4, 84, 84) uint8.
    """

    network: QNetwork
    target: QNetwork
    average: QNetwork | None
    settings: Settings

    def setup(self) -> None:
        """Builds the network with weights drawn from the seed, or decomposed from `settings.decompose_from`.

        Raises:
            InputError: the network to decompose cannot be read, or is of another kind.
        """
        self.settings = Settings.model_validate(self.model_config["settings"])
        spec = NetworkSpec.model_validate(self.model_config["network"])
        self.network = build_network(spec, self.model_config["seed"])
        source = warm_start.find_source(self.settings.decompose_from, spec)
        if source is not None:
            warm_start.decompose_into(self.network, source.network)
        self.average = make_target(self.network) if self.settings.average_decay else None
        self._explorer = torch.Generator().manual_seed(self.model_config["seed"])

    def make_target_networks(self) -> None:
        """Creates the target as a copy of the network."""
        self.target = make_target(self.network)

    def get_target_network_pairs(self) -> list[tuple[QNetwork, QNetwork]]:
        """The network and its target."""
        return [(self.network, self.target)]

    def get_non_inference_attributes(self) -> list[str]:
        """Acting does not need the target."""
        return ["target"]

    def get_initial_state(self) -> dict[str, Any]:
        """Nothing is remembered between steps but the stack itself."""
        return {}

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Target network's values of `batch["obs"]`, under the names of `compute_q_values`."""
        return self._values(self.target, batch[Columns.OBS])

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Values of `batch["obs"]`.

        Returns:
            "qf_preds" (batch, actions); with a value distribution also "atoms" (atoms,), and "qf_logits" and
            "qf_probs" (batch, actions, atoms).
        """
        return self._values(self.network, batch[Columns.OBS])

    def _values(self, network: QNetwork, observations: Tensor) -> dict[str, Tensor]:
        observations = observations.to(network.support.device)
        batch, stack = observations.shape[:2]
        stored = network.torso.encode(observations.flatten(0, 1)).unflatten(0, (batch, stack))
        outputs = network(stored)
        values = {OUTPUTS: outputs, QF_PREDS: network.q_values(outputs)}
        if network.head.has_support:
            values |= {ATOMS: network.support, QF_LOGITS: outputs, QF_PROBS: outputs.softmax(-1)}
        return values

    @property
    def acting(self) -> QNetwork:
        """The network that acts."""
        return self.network if self.average is None else self.average

    def _acting_values(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.average is None:
            return self.compute_q_values(batch)
        return self._values(self.average, batch[Columns.OBS])

    def _forward_inference(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """Greedy actions of the mean of the network that acts."""
        acting = self.acting
        training = acting.training
        acting.eval()
        try:
            return {Columns.ACTIONS: self._acting_values(batch)[QF_PREDS].argmax(1)}
        finally:
            acting.train(training)

    def _forward_exploration(self, batch: dict[str, Any], t: int = 0, **_: Any) -> dict[str, Tensor]:
        """Greedy actions under fresh noise (NoisyNet), or ε-greedy with ε at agent step `t`."""
        s, generator, acting = self.settings, self._generator(), self.acting
        acting.train()
        if acting.is_noisy:
            acting.draw_noise(generator)
        actions = self._acting_values(batch)[QF_PREDS].argmax(1)
        if acting.is_noisy:
            acting.forget_noise()
            return {Columns.ACTIONS: actions}
        epsilon = linear(s.epsilon_start, s.epsilon_end, t, begin=s.learning_starts, duration=s.epsilon_decay)
        drawn: dict[str, Any] = {"generator": generator, "device": actions.device}
        random = torch.randint(self.network.spec.actions, actions.shape, **drawn)
        explore = torch.rand(actions.shape, **drawn) < epsilon
        return {Columns.ACTIONS: torch.where(explore, random, actions)}

    def _generator(self) -> torch.Generator:
        """What exploration draws from, on the network's device."""
        device = self.network.support.device
        if self._explorer.device != device:
            self._explorer = torch.Generator(device).manual_seed(self.model_config["seed"])
        return self._explorer

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """What `RainbowLearner.compute_loss_for_module` needs of a train batch."""
        values = self.compute_q_values(batch)
        with torch.no_grad():
            choices = self.compute_q_values({Columns.OBS: batch[Columns.NEXT_OBS]})[QF_PREDS].argmax(1)
            target = self.forward_target({Columns.OBS: batch[Columns.NEXT_OBS]})
        rows = torch.arange(len(choices), device=choices.device)
        return {**values, "target_next": target[OUTPUTS][rows, choices]}
