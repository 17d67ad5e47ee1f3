"""All curvature blocks of a module, as the optimizer sees them: observed, preconditioned and moved at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.optimizers.blocks import LayerCurvature
from tensorrl.optimizers.curvature import KroneckerFactors
from tensorrl.optimizers.eigenbasis import EigenStack
from tensorrl.optimizers.flat import FlatBlocks
from tensorrl.optimizers.soundness import Soundness

Groups = Sequence[Mapping[str, Any]]
"""Parameter groups with "lr", "momentum" and "weight_decay"."""


class BlockSet:
    """Blocks of all parameter groups.

    Args:
        flats: one for each group, dtype and device.
        decoupled: whether weight decay is, instead of L2.
    """

    def __init__(self, flats: Sequence[FlatBlocks], *, decoupled: bool = False) -> None:
        self._flats, self._decoupled = list(flats), decoupled
        self.stacks = [stack for flat in flats for stack in flat.stacks]
        self.eigen_stacks = [stack for stack in self.stacks if isinstance(stack, EigenStack)]
        self._places = {block: (stack, k) for stack in self.stacks for k, block in enumerate(stack.blocks)}

    def factors(self) -> dict[str, KroneckerFactors]:
        """Returns the moving averages of A and G by block name, not copied."""
        return {
            block.name: block.of_axes(stack.row_factors[k], stack.column_factors[k])
            for block, (stack, k) in self._places.items()
        }

    def sample(self, layer: LayerCurvature, inputs: Tensor, gradients: Tensor) -> None:
        """Takes second moments of a layer's gradients in the blocks' eigenbases; see `LayerCurvature.examples`."""
        for block, found in zip(layer.blocks, layer.examples(inputs, gradients), strict=True):
            if block in self._places:
                stack, k = self._places[block]
                assert isinstance(stack, EigenStack)
                stack.sample(k, found)

    def forget_samples(self) -> None:
        """Drops second moments that were not taken in: of an observation that was not ended or not finite."""
        for stack in self.eigen_stacks:
            stack.forget_samples()

    def absorb(
        self, found: Mapping[LayerCurvature, Iterable[KroneckerFactors]], decay: float, soundness: Soundness, step: int
    ) -> bool:
        """Updates the averages with one observation, except for factors that are not finite; returns whether any
        moved."""
        pairs = [(block, factors) for layer in found for block, factors in zip(layer.blocks, found[layer], strict=True)]
        pairs = [(block, factors) for block, factors in pairs if block in self._places]
        sound = soundness.of_factors(pairs, step)
        for (block, factors), finite in zip(pairs, sound, strict=True):
            if finite:
                stack, k = self._places[block]
                stack.update(k, factors, decay)
                if isinstance(stack, EigenStack):
                    stack.update_scalings(k, decay)
        self.forget_samples()
        return any(sound)

    def unseen(self) -> list[str]:
        """Names of blocks never observed."""
        return [block.name for block, (stack, k) in self._places.items() if not stack.updates[k]]

    def precondition(self, groups: Groups) -> None:
        """Collects gradients, with their weight decay where it is L2, and preconditions them."""
        for flat in self._flats:
            flat.collect(0.0 if self._decoupled else groups[flat.group]["weight_decay"])
            flat.precondition()

    def alignment(self, groups: Groups) -> Tensor:
        """Returns lr² pᵀ∇ of the preconditioned gradient p."""
        return reduce(torch.add, (flat.alignment(groups[flat.group]["lr"]) for flat in self._flats))

    def turn(self, groups: Groups, scale: float | Tensor) -> None:
        """Makes steps of preconditioned gradients; see `FlatBlocks.turn`."""
        for flat in self._flats:
            group = groups[flat.group]
            flat.turn(scale, group["lr"], group["momentum"], decay=group["weight_decay"] if self._decoupled else 0.0)

    def shorten(self, factor: Tensor) -> None:
        """Scales the steps made before they are added."""
        for flat in self._flats:
            flat.steps.mul_(factor)

    def add(self) -> None:
        """Adds the steps made to the parameters."""
        for flat in self._flats:
            flat.add()

    def rescale(self, factor: Tensor) -> None:
        """Makes the steps just taken `factor` times as long."""
        for flat in self._flats:
            flat.rescale(factor)

    def curvature(self) -> Tensor:
        """Returns δᵀFδ of the steps made, F undamped."""
        return reduce(torch.add, (flat.curvature() for flat in self._flats))

    def predicted_change(self) -> Tensor:
        """Returns the change of loss that the quadratic model predicts of the steps just taken."""
        return reduce(torch.add, (flat.predicted_change() for flat in self._flats))

    def restart(self, chosen: AbstractSet[nn.Parameter]) -> None:
        """Begins the state of every block with one of the parameters anew; see `FlatBlocks.restart`."""
        for flat in self._flats:
            flat.restart(chosen)

    def get_state(self) -> dict[str, dict[str, Tensor | int]]:
        """Returns copies of every block's state by name."""
        return {block.name: stack.state_of(k) for block, (stack, k) in self._places.items()}

    def set_state(self, state: Mapping[str, dict[str, Tensor | int]]) -> None:
        """Puts back what `get_state` gave.

        Raises:
            InputError: the state is of other blocks, or of blocks with other state.
        """
        mine, theirs = {block.name for block in self._places}, set(state)
        if mine != theirs:
            raise InputError(f"state_dict: blocks differ from the module's: {', '.join(sorted(mine ^ theirs))}")
        for block, (stack, k) in self._places.items():
            stack.set_state_of(k, state[block.name])

    def counts(self) -> list[Tensor]:
        """Returns copies of how many gradients grafted steps have seen; empty without grafting."""
        return [flat.moments.count.clone() for flat in self._flats if flat.moments is not None]

    def set_counts(self, counts: Sequence[Any]) -> None:
        """Puts back what `counts` gave."""
        moments = [flat.moments for flat in self._flats if flat.moments is not None]
        for mine, count in zip(moments, counts, strict=True):
            mine.count.copy_(torch.as_tensor(count))
