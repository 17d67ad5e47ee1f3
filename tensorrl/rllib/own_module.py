"""A user's RLModule in place of our network: any module with `QNetAPI` and `TargetNetworkAPI`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.learning.agent import Agent
from tensorrl.networks.frames import FRAME_SHAPE
from tensorrl.networks.heads import CategoricalHead, ScalarHead, ValueHead, outputs_of
from tensorrl.rllib.module import ATOMS, QF_LOGITS, QF_PREDS
from tensorrl.rllib.whole_games import STACK
from tensorrl.trial.settings import Settings


class Frames:
    """Takes the place of a torso: replay keeps frames (84, 84) uint8 as they come."""

    stored_shape: tuple[int, ...] = FRAME_SHAPE
    stored_dtype = torch.uint8
    keeps_frames = False

    @staticmethod
    def encode(frames: Tensor) -> Tensor:
        """Frames (n, 84, 84), unchanged."""
        return frames


@dataclass(frozen=True)
class Shape:
    """The parts of a network's description that training needs."""

    actions: int
    atoms: int
    stack: int = STACK


class ModuleNetwork(nn.Module):
    """A user's module as the network of an `Agent`.

    Its `compute_q_values({"obs": stacks})`, with stacks (batch, 4, 84, 84) uint8, gives "qf_preds" (batch, actions);
    with a value distribution also "atoms" (atoms,), equally spaced, and "qf_logits" (batch, actions, atoms).

    Args:
        module: on the device where it is to learn.
        actions: of the game.

    Raises:
        InputError: it returns something else.
    """

    support: Tensor
    is_noisy = False

    def __init__(self, module: Any, actions: int) -> None:
        super().__init__()
        self.module = module
        self.torso = Frames()
        device = next(module.parameters()).device
        name = f"{type(module).__name__}.compute_q_values"
        blank = torch.zeros(1, STACK, *FRAME_SHAPE, dtype=torch.uint8, device=device)
        try:
            with torch.no_grad():
                found = module.compute_q_values({Columns.OBS: blank})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{name}: cannot take frames (batch, {STACK}, 84, 84) uint8 ({reason})") from error
        values = found.get(QF_PREDS)
        if values is None or tuple(values.shape) != (1, actions):
            shape = None if values is None else tuple(values.shape)
            raise InputError(f"{name}: {QF_PREDS!r} is {shape}, not (batch, {actions})")
        self.head: ValueHead
        if QF_LOGITS in found:
            atoms = found[ATOMS].detach().float()
            self.head = CategoricalHead(len(atoms), float(atoms[0]), float(atoms[-1]))
        else:
            self.head, atoms = ScalarHead(), torch.zeros(1)
        self.spec = Shape(actions, len(atoms))
        self.register_buffer("support", atoms.to(device), persistent=False)

    def outputs(self, found: dict[str, Tensor]) -> Tensor:
        """The part of the module's values that the head reads."""
        return found[QF_LOGITS] if self.head.axes else found[QF_PREDS]

    def forward(self, stacks: Tensor) -> Tensor:
        """Logits (batch, actions, atoms), or Q-values (batch, actions), of stacks (batch, 4, 84, 84)."""
        return self.outputs(self.module.compute_q_values({Columns.OBS: stacks}))

    def chosen(self, stacks: Tensor, actions: Tensor, *, repeatable: bool = False) -> Tensor:
        """What `forward` gives for one action (batch,) of each stack; the same bits every time, whatever is asked."""
        return outputs_of(self(stacks), actions)

    def q_values(self, outputs: Tensor) -> Tensor:
        """Expected returns (batch, actions) of what `forward` gave."""
        return self.head.values(outputs, self.support)

    def prepare(self, stacks: Tensor) -> Tensor:
        """Stacks as they are: the module prepares them itself."""
        return stacks

    def draw_noise(self, generator: torch.Generator) -> None:
        """Nothing: the module explores ε-greedily."""

    def form_noise(self) -> None:
        """Nothing."""

    def forget_noise(self) -> None:
        """Nothing."""


class ModuleTarget(nn.Module):
    """The target networks of a user's module.

    Args:
        network: the network that it is the target of.
    """

    support: Tensor
    is_noisy = False

    def __init__(self, network: ModuleNetwork) -> None:
        super().__init__()
        self.head = network.head
        # Not registered: target networks are parts of the module, and saved as those.
        self._network = (network,)
        self.register_buffer("support", network.support, persistent=False)

    def forward(self, stacks: Tensor) -> Tensor:
        """As `ModuleNetwork.forward`, by the target networks."""
        (network,) = self._network
        return network.outputs(network.module.forward_target({Columns.OBS: stacks}))

    def chosen(self, stacks: Tensor, actions: Tensor, *, repeatable: bool = False) -> Tensor:
        """What `forward` gives for one action (batch,) of each stack; the same bits every time, whatever is asked."""
        return outputs_of(self(stacks), actions)

    def forget_noise(self) -> None:
        """Nothing."""


class ModuleAgent(Agent):
    """An agent on a user's module.

    Args:
        network: its module has its target networks.
        optimizer: over the network's parameters.
        settings: of the trial.
        seed: source of all randomness of acting and learning.
    """

    def __init__(self, network: ModuleNetwork, optimizer: Any, settings: Settings, seed: int) -> None:
        pairs = network.module.get_target_network_pairs()
        for _, frozen in pairs:
            frozen.requires_grad_(False)
        trained: Any = network
        target: Any = ModuleTarget(network)
        super().__init__(
            trained,
            target,
            optimizer,
            target_interval=settings.target_interval,
            gradient_norm=settings.gradient_norm,
            seed=seed,
        )
        # A module may share parts between the two, or have some that no target follows.
        self._target_pairs = (
            [tensor.detach() for main, _ in pairs for tensor in (*main.parameters(), *main.buffers())],
            [tensor.detach() for _, copied in pairs for tensor in (*copied.parameters(), *copied.buffers())],
        )
