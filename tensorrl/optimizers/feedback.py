"""What K-FAC takes from the outcome of a step: its damping, the length of the step, and figures for reports."""

from __future__ import annotations

import torch
from torch import Tensor

from tensorrl.optimizers.blockset import BlockSet
from tensorrl.optimizers.damping import LevenbergMarquardt
from tensorrl.optimizers.figures import decided_directions
from tensorrl.optimizers.options import DIVERGENCES, Options
from tensorrl.optimizers.trust import MEASUREMENTS, TrustRegion


class Feedback:
    """The part of `KFAC` that looks back at the step just taken."""

    _options: Options
    _blocks: BlockSet
    _trust: TrustRegion | None
    _damping: float
    _predicted: Tensor | None
    _last_scale: float | Tensor

    @property
    def damping_due(self) -> bool:
        """Whether `adapt_damping` wants the losses before and after the step just taken."""
        return self._predicted is not None

    def adapt_damping(self, loss_before: float | Tensor, loss_after: float | Tensor) -> None:
        """Adapts λ to how well the quadratic model predicted the step just taken; see `LevenbergMarquardt`.

        Does nothing unless `damping_due`.

        Args:
            loss_before: of the step's batch, at the parameters before it.
            loss_after: of the same batch, at the parameters now.
        """
        adaptive = self._options.damping
        if self._predicted is None or not isinstance(adaptive, LevenbergMarquardt):
            return
        predicted, self._predicted = float(self._predicted), None
        if predicted != 0:
            before, after = (float(torch.as_tensor(loss).detach()) for loss in (loss_before, loss_after))
            self._damping = adaptive.adapted(self._damping, (after - before) / predicted)

    @property
    def fits(self) -> int:
        """How often `fit_step` wants the outputs before and after each step: 0 without a trust region."""
        return 0 if self._trust is None else MEASUREMENTS

    @torch.no_grad()
    def fit_step(self, before: Tensor, after: Tensor) -> None:
        """Scales the step just taken to the trust region; does nothing without one.

            before = model(inputs)
            ...
            optimizer.step()
            for _ in range(optimizer.fits):
                with torch.no_grad():
                    optimizer.fit_step(before, model(inputs))

        Args:
            before: the model's outputs for the step's batch, (batch, ...), at the parameters before it.
            after: likewise, at the parameters now.
        """
        if self._trust is not None:
            # For such short steps float32 would give only the rounding of the logarithms.
            divergence = DIVERGENCES[str(self._options.likelihood)](before.detach().double(), after.double())
            self._blocks.rescale(self._trust.correct(divergence.to(self._trust.reach)))

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Returns figures of the last step; they wait for the device and take some eigenvalues: for reports only.

        `damping` is λ; `directions` is Σ μ/(μ + λ), see `decided_directions`; `step_divergence` is ½ δᵀFδ of the step δ
        by the undamped F, in nats; `step_scale` is the factor of `kl_clip`, or of the learning rate in a trust region.
        """
        options, trust = self._options, self._trust
        return {
            "damping": self._damping,
            "directions": decided_directions(self._blocks.stacks, self._damping, relative=options.relative_damping),
            "step_divergence": float(self._blocks.curvature()) / 2,
            "step_scale": float(self._last_scale if trust is None else trust.reach),
        }
