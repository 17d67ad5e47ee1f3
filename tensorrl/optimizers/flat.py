"""The flat vectors behind all blocks, and what a step does with them.

One step of a small network is bound by the number of operations, not by their size. So all gradients, preconditioned
gradients and momenta of a parameter group are slices of three flat vectors, on which norms and momentum are one
operation each. The memory never moves, so a captured CUDA graph keeps seeing the current values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.optimizers.blocks import Block
from tensorrl.optimizers.eigenbasis import EigenStack
from tensorrl.optimizers.grafting import AdamLength, AdamMoments
from tensorrl.optimizers.stacks import BlockStack


class FlatBlocks:
    """All blocks of one parameter group, device and dtype, and the flat vectors that they are slices of.

    Attributes:
        group: index of the parameter group.
        stacks: the blocks, by shape.
        gradients: flat vector of all blocks' gradients.
        steps: flat vector of what is made of them: preconditioned gradients, and after `move` the step taken.
        momenta: flat vector.
        moments: Adam's, where steps are grafted.

    Args:
        group: see above.
        blocks: the blocks.
        dtype: of the parameters.
        device: likewise.
        graft: gives steps Adam's length.
        eigenbasis: whether blocks are preconditioned in their eigenbases.
        dense: whether steps may be recorded; by default on a GPU. What is exchanged with parameters then lies as they
            do, and is sorted into matrices by one operator: PyTorch takes a kernel for all tensors at once only if none
            has gaps, and the weight beside its bias in a matrix has. Stacks then use no tensor that is replaced.
    """

    def __init__(
        self,
        group: int,
        blocks: Iterable[Block],
        dtype: torch.dtype,
        device: torch.device,
        *,
        graft: AdamLength | None = None,
        eigenbasis: bool = False,
        dense: bool | None = None,
    ) -> None:
        self.group = group
        dense = device.type != "cpu" if dense is None else dense
        by_shape: dict[tuple[int, int], list[Block]] = {}
        for block in blocks:
            by_shape.setdefault((block.rows, block.columns), []).append(block)
        sizes = [rows * columns for (rows, columns), members in by_shape.items() for _ in members]
        self.gradients, self.steps, self.momenta = (
            torch.zeros(sum(sizes), dtype=dtype, device=device) for _ in range(3)
        )
        self.moments = None if graft is None else AdamMoments(graft, self.gradients, sizes if graft.by_block else None)
        self._slices = list(self.steps.split(sizes))
        self._adams_slices = [] if self.moments is None else list(self.moments.step.split(sizes))
        self.stacks: list[BlockStack] = []
        self._parameters: list[nn.Parameter] = []
        self._gradient_views: list[Tensor] = []
        self._step_views: list[Tensor] = []
        self._live: list[int] = []
        vectors = [self.gradients, self.steps, self.momenta]
        if self.moments is not None:
            vectors += [self.moments.first, self.moments.second]
        start = 0
        for (rows, columns), members in by_shape.items():
            end = start + len(members) * rows * columns
            gradients, steps, momenta, *moments = (
                flat[start:end].view(len(members), rows, columns) for flat in vectors
            )
            pair = (moments[0], moments[1]) if moments else None
            kind = EigenStack if eigenbasis else BlockStack
            self.stacks.append(kind(members, gradients, steps, momenta, pair, packs=not (dense or eigenbasis)))
            for block, gradient, step in zip(members, gradients, steps, strict=True):
                self._parameters += block.parameters
                self._gradient_views += block.views(gradient)
                self._step_views += block.views(step)
            start = end
        self._order: _Order | None = None
        self._block_of: Tensor | None = None
        if dense:
            self._order = _Order(by_shape.values(), self.gradients)
            self._gradient_views = self._order.views
            self._step_views = self._order.views
        if dense and graft is not None:
            numbers = torch.arange(len(sizes), device=device)
            self._block_of = numbers.repeat_interleave(torch.tensor(sizes, device=device))

    def collect(self, weight_decay: float) -> None:
        """Copies the parameters' gradients, 0 where there is none, plus weight decay."""
        grads = [p.grad for p in self._parameters]
        self._live = [k for k, grad in enumerate(grads) if grad is not None]
        if len(self._live) < len(grads):
            (self.gradients if self._order is None else self._order.values).zero_()
        views, parameters = self._of_live(self._gradient_views), self._of_live(self._parameters)
        torch._foreach_copy_(views, [grad for grad in grads if grad is not None])
        if weight_decay:
            torch._foreach_add_(views, parameters, alpha=weight_decay)
        if self._order is not None:
            self._order.to_matrices(self.gradients)

    def precondition(self) -> None:
        """Turns `gradients` into `steps`."""
        for stack in self.stacks:
            stack.precondition()

    def alignment(self, lr: float | Tensor) -> Tensor:
        """Returns lr² · stepsᵀ gradients, at least the quadratic form of a step of `lr` times `steps`."""
        return torch.dot(self.gradients, self.steps) * lr**2

    def move(self, scale: float | Tensor, lr: float | Tensor, momentum: float, *, decay: float = 0.0) -> None:
        """Turns `steps` into −lr · (momentum · momenta + scale · steps) and adds it to the parameters.

        Where steps are grafted, each block's is first given lr times the length of Adam's. Last comes decoupled weight
        decay: −lr · decay · θ (Loshchilov & Hutter 2019, with PyTorch's convention that the decay is multiplied by lr).

        Args:
            scale: a number, or a tensor that is NaN where the step is to be skipped.
            lr: learning rate.
            momentum: of the group; with 0 no momenta are kept.
            decay: of decoupled weight decay.
        """
        self.turn(scale, lr, momentum, decay=decay)
        self.add()

    def add(self) -> None:
        """Adds `steps` to the parameters."""
        torch._foreach_add_(self._of_live(self._parameters), self._steps_of_live())

    def turn(self, scale: float | Tensor, lr: float | Tensor, momentum: float, *, decay: float = 0.0) -> None:
        """Does what `move` does, without adding the step to the parameters."""
        keep: float | Tensor = momentum
        sound: Tensor | None = None
        if isinstance(scale, Tensor):
            sound = ~scale.isnan()
            self.steps.nan_to_num_(0, 0, 0)
            scale, keep, lr = scale.nan_to_num(0), torch.where(sound, momentum, 1.0), torch.where(sound, lr, 0.0)
        if momentum:
            self.momenta.mul_(keep).add_(self.steps.mul_(scale))
            torch.mul(self.momenta, -lr, out=self.steps)
        else:
            self.steps.mul_(-lr * scale)
        if self.moments is not None:
            self.moments.observe(self.gradients, sound)
            self._graft(lr)
        if decay:
            self._shrink(lr * decay)

    def _graft(self, lr: float | Tensor) -> None:
        mine, adams = (torch.stack(torch._foreach_norm(slices)) for slices in (self._slices, self._adams_slices))
        # A block that does not move has no direction to scale.
        ratios = torch.where(mine > 0, adams * lr / mine, 0)
        if self._block_of is None:
            torch._foreach_mul_(self._slices, list(ratios.unbind()))
        else:
            # By a list of numbers that lie on a GPU, PyTorch multiplies tensor by tensor.
            self.steps.mul_(ratios.index_select(0, self._block_of))

    def _shrink(self, share: float | Tensor) -> None:
        """Adds −share · θ to `steps`, for the parameters that a step moves."""
        parameters = self._of_live(self._parameters)
        if self._order is None:
            torch._foreach_add_(self._of_live(self._step_views), torch._foreach_mul(parameters, -share))
            return
        if len(parameters) < len(self._parameters):
            self._order.values.zero_()
        torch._foreach_copy_(self._of_live(self._step_views), parameters)
        values = torch.empty_like(self.steps)
        self._order.to_matrices(values)
        self.steps.sub_(values.mul_(share))

    def rescale(self, factor: Tensor) -> None:
        """Makes the step just taken `factor` times as long."""
        torch._foreach_sub_(self._of_live(self._parameters), self._steps_of_live())
        self.steps.mul_(factor)
        self.add()

    def curvature(self) -> Tensor:
        """Returns δᵀFδ of the step δ just made, F undamped."""
        return reduce(torch.add, (stack.curvature_along(stack.steps) for stack in self.stacks))

    def predicted_change(self) -> Tensor:
        """Returns ∇ᵀδ + ½ δᵀFδ for the δ just applied, F undamped: the change of loss the quadratic model predicts."""
        return torch.dot(self.gradients, self.steps) + self.curvature() / 2

    def restart(self, chosen: AbstractSet[nn.Parameter]) -> None:
        """Begins the state of every block with one of the parameters anew.

        Raises:
            InputError: a part of the blocks is chosen, and Adam's gradients are not counted by block.
        """
        blocks = [(stack, k) for stack in self.stacks for k in range(len(stack.blocks))]
        places = [place for place, (stack, k) in enumerate(blocks) if not chosen.isdisjoint(stack.blocks[k].parameters)]
        if self.moments is not None and places:
            counts = self.moments.count
            if counts.dim() == 0 and len(places) < len(blocks):
                raise InputError("restart(): single blocks of grafted steps need graft=AdamLength(by_block=True)")
            for count in [counts] if counts.dim() == 0 else [counts[place] for place in places]:
                count.zero_()
        for place in places:
            stack, k = blocks[place]
            stack.restart(k)

    def _steps_of_live(self) -> list[Tensor]:
        if self._order is not None:
            self._order.from_matrices(self.steps)
        return self._of_live(self._step_views)

    def _of_live(self, things: Sequence[Tensor]) -> list[Tensor]:
        return [things[k] for k in self._live]


class _Order:
    """A flat vector in which every parameter lies whole, beside one in which they lie as blocks' matrices.

    Attributes:
        values: the vector.
        views: of it, one of each parameter's shape, in the order of the blocks.
    """

    def __init__(self, stacks: Iterable[Sequence[Block]], like: Tensor) -> None:
        numbers, start, places = torch.arange(len(like), device=like.device), 0, []
        parameters: list[nn.Parameter] = []
        for block in (block for members in stacks for block in members):
            end = start + block.rows * block.columns
            places += [view.reshape(-1) for view in block.views(numbers[start:end].view(block.rows, block.columns))]
            parameters += block.parameters
            start = end
        self._from = torch.cat(places)
        self._to = self._from.argsort()
        self.values = torch.zeros_like(like)
        parts = self.values.split([parameter.numel() for parameter in parameters])
        self.views = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]

    def to_matrices(self, matrices: Tensor) -> None:
        """Writes the values into the matrices' vector."""
        torch.index_select(self.values, 0, self._to, out=matrices)

    def from_matrices(self, matrices: Tensor) -> None:
        """Takes the values from the matrices' vector."""
        torch.index_select(matrices, 0, self._from, out=self.values)
