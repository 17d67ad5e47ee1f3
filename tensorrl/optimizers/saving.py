"""The state of K-FAC: saved, put back, and begun anew for some parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import nn
from torch.optim import Optimizer

from tensorrl.errors import InputError
from tensorrl.optimizers.blockset import BlockSet
from tensorrl.optimizers.eigenbasis import EigenRefresh
from tensorrl.optimizers.protocol import forget
from tensorrl.optimizers.refresh import InverseRefresh
from tensorrl.optimizers.trust import TrustRegion
from tensorrl.system import restore_generator


class SavedState(Optimizer):
    """The part of `KFAC` that keeps its state from one process to the next."""

    _blocks: BlockSet
    _refresh: InverseRefresh | EigenRefresh
    _trust: TrustRegion | None
    _fallback: Optimizer | None
    _generator: torch.Generator
    _damping: float
    _steps: int
    _observations: int
    _refreshed_after: int
    _predicted: torch.Tensor | None

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state, in tensors, numbers and names: a run resumed from it gives the same bits."""
        own = {
            "steps": self._steps,
            "observations": self._observations,
            "refreshed_after": self._refreshed_after,
            "damping": self._damping,
            "generator": self._generator.get_state(),
            "refresh": self._refresh.state(),
            "blocks": self._blocks.get_state(),
            "graft_counts": self._blocks.counts(),
            **({} if self._trust is None else {"trust_region": self._trust.get_state()}),
        }
        return {**super().state_dict(), "kfac": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned, of an optimizer made for the same module with the same options.

        Raises:
            InputError: the state is of another optimizer or of other blocks.
        """
        if "kfac" not in state_dict:
            raise InputError("state_dict: is not of KFAC, has no entry 'kfac'")
        own = state_dict["kfac"]
        self._blocks.set_state(own["blocks"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._link_fallback()
        # States written before grafting existed have no counts.
        self._blocks.set_counts(own.get("graft_counts", []))
        if self._trust is not None and "trust_region" in own:
            self._trust.set_state(own["trust_region"])
        self._steps, self._observations = int(own["steps"]), int(own["observations"])
        self._refreshed_after, self._damping = int(own["refreshed_after"]), float(own["damping"])
        restore_generator(self._generator, torch.as_tensor(own["generator"]), self._steps)
        self._refresh.set_state(own["refresh"])
        self._predicted = None

    @torch.no_grad()
    def restart(self, parameters: Iterable[nn.Parameter]) -> None:
        """Begins the state of some parameters anew, as after a reset of their layers; that of the others stays.

        A block with any of them loses its factors, inverses, momenta and moments. It stays put until curvature is
        observed, which the next step does for all blocks, and refreshes all inverses at once.

        Raises:
            InputError: steps are grafted without `AdamLength(by_block=True)`.
        """
        chosen = set(parameters)
        self._blocks.restart(chosen)
        if self._fallback is not None:
            forget(self.state, chosen)
        self._refresh.set_state(None)
        # As before the first step.
        self._observations, self._refreshed_after, self._predicted = 0, -1, None

    def __getstate__(self) -> NoReturn:
        raise TypeError("KFAC cannot be pickled or copied; make another and use state_dict() and load_state_dict()")

    def _link_fallback(self) -> None:
        """Lets the fallback work on our groups and state, so that schedulers and checkpoints reach it."""
        if self._fallback is not None:
            self._fallback.param_groups = [group for group in self.param_groups if group.get("fallback")]
            self._fallback.state = self.state
