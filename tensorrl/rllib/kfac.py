"""K-FAC for the learners of other algorithms of RLlib: a mixin in front of one's learner class."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from torch import Tensor

from tensorrl.errors import InputError
from tensorrl.optimizers.capture import Capture
from tensorrl.optimizers.kfac import KFAC

OPTIONS = "kfac"


class KFACLearnerMixin:
    """Makes a PyTorch learner of RLlib train every module by `KFAC`.

    Put it before the algorithm's own learner, and name the class in the config; options of `KFAC` go by
    `learner_config_dict`:

        >>> from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
        >>> class PPOKFACLearner(KFACLearnerMixin, PPOTorchLearner): ...
        >>> # config.learners(learner_class=PPOKFACLearner, learner_config_dict={"kfac": {"damping": 0.1}})

    The learning rate is the config's `lr`, a schedule too. The Fisher is the empirical one, of the loss that the
    algorithm computes anyway, so the meaning of its outputs does not matter; a learner that overrides
    `curvature_outputs` and sets `fisher="sampled"` and a `likelihood` has the sampled one. Parameters that no
    curvature block covers (a layer norm, say) are Adam's unless `fallback` says otherwise.
    """

    _captures: dict[str, Capture] | None = None
    _kfac_of: Mapping[str, KFAC] = MappingProxyType({})

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Registers K-FAC for a module.

        Raises:
            InputError: an option that `KFAC` does not have or cannot take.
        """
        learner: Any = self
        module = learner.module[module_id]
        options = {"fisher": "empirical", "fallback": "adam", **config.learner_config_dict.get(OPTIONS, {})}
        rate = config.lr if isinstance(config.lr, int | float) else config.lr[0][1]
        try:
            optimizer = KFAC(module, lr=rate, **options)
        except TypeError as error:
            raise InputError(f"learner_config_dict[{OPTIONS!r}]: {error}") from None
        self._kfac_of = {**self._kfac_of, module_id: optimizer}
        learner.register_optimizer(
            module_id=module_id,
            optimizer=optimizer,
            params=[parameter for parameter in module.parameters() if parameter.requires_grad],
            lr_or_lr_schedule=config.lr,
        )

    def curvature_outputs(self, module_id: str, batch: Mapping[str, Any]) -> Tensor | None:
        """The outputs whose distribution the sampled Fisher draws from; None for the empirical one.

        Args:
            module_id: which module.
            batch: its train batch. What the forward pass gave is in `forward_outputs`, by module.
        """
        return None

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        """RLlib's update, with K-FAC watching its forward pass and losses."""
        with ExitStack() as stack:
            self._captures, self._batch, self._watch = {}, batch, stack
            for module_id in batch:
                optimizer = self._kfac_of.get(module_id)
                if optimizer is not None:
                    rows = len(batch[module_id][Columns.ACTIONS])
                    self._captures[module_id] = stack.enter_context(optimizer.curvature(batch_size=rows))
            return super()._uncompiled_update(batch, **kwargs)  # type: ignore[misc]

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """The algorithm's losses; keeps what the forward pass gave in `forward_outputs`."""
        self.forward_outputs = fwd_out
        losses: dict[str, Any] = super().compute_losses(fwd_out=fwd_out, batch=batch)  # type: ignore[misc]
        return losses

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> Any:
        """Lets K-FAC observe curvature if it is due, then computes the gradients as the algorithm does."""
        for module_id, capture in (self._captures or {}).items():
            if module_id in loss_per_module and module_id != ALL_MODULES:
                outputs = self.curvature_outputs(module_id, self._batch[module_id])
                capture.observe(outputs, loss=loss_per_module[module_id])
        self._captures = None
        # Ends the captures: K-FAC takes their curvature over before it steps.
        self._watch.close()
        return super().compute_gradients(loss_per_module, **kwargs)  # type: ignore[misc]
