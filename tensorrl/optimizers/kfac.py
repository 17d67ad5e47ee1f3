"""K-FAC: natural gradient with Kronecker-factored curvature (Martens & Grosse 2015), as a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.optimizers.blocks import LayerCurvature
from tensorrl.optimizers.blockset import BlockSet
from tensorrl.optimizers.capture import Capture
from tensorrl.optimizers.coverage import Fallback, find_layers, lay_out, make_fallback, parameter_groups
from tensorrl.optimizers.curvature import KroneckerFactors, Sharing
from tensorrl.optimizers.damping import Damping, LevenbergMarquardt, damping_at
from tensorrl.optimizers.eigenbasis import EigenRefresh
from tensorrl.optimizers.feedback import Feedback
from tensorrl.optimizers.grafting import AdamLength
from tensorrl.optimizers.options import Fisher, Likelihood, Options, check_range
from tensorrl.optimizers.refresh import InverseRefresh
from tensorrl.optimizers.saving import SavedState
from tensorrl.optimizers.soundness import Soundness, warn_of_unseen
from tensorrl.optimizers.trust import TrustRegion


class KFAC(Feedback, SavedState):
    """K-FAC for `nn.Linear`, `nn.Conv2d` and `TensorRegression`; further layers through `register_block`.

    Every `curvature_interval` steps it must see a forward pass inside `curvature()`; on all other steps that context is
    free and a step costs two matrix products per block:

        >>> import torch
        >>> from torch import nn
        >>> from tensorrl.optimizers.kfac import KFAC
        >>> model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> optimizer = KFAC(model, lr=0.1)
        >>> inputs = torch.randn(64, 2)
        >>> labels = (inputs[:, 0] > 0) + (inputs[:, 1] > 0).long()
        >>> for _ in range(100):
        ...     with optimizer.curvature() as capture:
        ...         logits = model(inputs)
        ...         capture.observe(logits)
        ...     loss = nn.functional.cross_entropy(logits, labels)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> bool(loss < 0.5)
        True

    With F ≈ A ⊗ G per block, a step is

        p = (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹ · (∇ + weight_decay · θ)
        v ← momentum · v + min(1, √(2 · kl_clip / (lr² pᵀ∇))) · p
        θ ← θ − lr · v

    pᵀ∇ bounds pᵀ F p from above, so without momentum ½ Δθᵀ F Δθ, the model's estimate of how far the predictions move
    (in nats), stays at or below `kl_clip` (Wu et al. 2017, section 3.2); with momentum at most 1 / (1 − momentum)²
    times it. With `graft` each block's step −lr · v is scaled to the length that another optimizer's would have. With
    `trust_region` the whole step is scaled to a divergence that is measured, by `fit_step` after every step.

    A CUDA graph can hold `apply()` alone; with `prepare()` before it that is `step()`. Inside, `lr` must be a tensor to
    be changeable. On curvature steps layers must run eagerly: compiled code runs no hooks.

    Args:
        module: the module to optimise. Frozen parameters (`requires_grad=False` now) do not change.
        lr: learning rate η_max, a float or 0-dim tensor, at least 0.
        damping: λ ≥ 0, a schedule λ(step), or `LevenbergMarquardt` (then report losses to `adapt_damping`).
            Split between A and G (Martens & Grosse 2015, section 6.3). Default 0.01 (ACKTR's program, Wu et al. 2017).
        relative_damping: takes `damping` as a ratio, λ being that times the block's mean curvature
            (tr A / dim A) (tr G / dim G), so that a block's direction does not depend on how large its curvature is.
        factor_decay: of the factors' moving averages, min(1 − 1/k, factor_decay) at the k-th observation. Default
            0.95 (Martens & Grosse 2015, section 5).
        curvature_interval: steps between two observations. Default 10, ours: an observation costs about a step.
        inverse_interval: steps between two refreshes of the inverses, besides those after the 1st, 2nd, 4th, 8th, ...
            observation, while averages are young. Default 100, ours.
        overlap: 0 refreshes inverses at once; k > 0 on another thread, taken over exactly k steps later.
        kl_clip: the bound above, in nats; None for none. Default 0.001 (Wu et al. 2017, section 5). Not used with
            `graft` or `trust_region`.
        trust_region: KL divergence of the predictions before and after each step on its batch, in nats, momentum
            included, as far as `lr` allows; it needs `fit_step`. None for none.
        graft: the optimizer whose step lengths are used, block by block (Agarwal et al. 2020); None for K-FAC's own.
        eigenbasis: keeps second moments in the eigenbasis of A ⊗ G in place of the products of eigenvalues (EKFAC,
            George et al. 2018; see `tensorrl.optimizers.eigenbasis`). λ is then added to them as it is.
        momentum: in [0, 1). Default 0.9, that of the ACKTR authors' program.
        weight_decay: L2, added to gradients before preconditioning (η in Martens & Grosse 2015). Default 0.
        decoupled_weight_decay: shrinks θ by lr · weight_decay · θ beside the step instead (Loshchilov & Hutter 2019, as
            PyTorch's Adam scales it): neither preconditioned, nor clipped, grafted or part of momentum.
        fisher: "sampled" draws targets from the model's own distribution (the Fisher); "empirical" takes the loss's
            own gradients (cheaper by nothing but the draw, and no approximation of the Hessian; Kunstner et al. 2019).
        likelihood: of the sampled Fisher: "categorical" (cross-entropy over the last axis), "gaussian" (MSE, Huber),
            or a function of (outputs, generator, weights), see `tensorrl.optimizers.fisher`.
        sharing: "expand" or "reduce", how positions sharing a weight are treated (Eschenhagen et al. 2023). Default
            "expand", which is what Grosse & Martens (2016) do for convolutions.
        generator: of the sampled targets, part of the state; by default one with seed 0 on the parameters' device.
        groups: parameter groups as of any optimizer, a bias in its weight's. Parameters of the module that are in none
            are left alone. By default one group of all.
        fallback: for parameters without a curvature block, which are an error by default: "adam", "sgd", or a function
            of a list of parameters that makes an optimizer. Its groups follow ours in `param_groups`.
        capturable: whether `apply` never waits for the device, as in a CUDA graph; by default unless on a CPU.

    Raises:
        InputError: an option out of its range, or a parameter that no block covers and no fallback takes.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float | Tensor,
        *,
        damping: Damping = 0.01,
        relative_damping: bool = False,
        factor_decay: float = 0.95,
        curvature_interval: int = 10,
        inverse_interval: int = 100,
        overlap: int = 0,
        kl_clip: float | None = 0.001,
        trust_region: float | None = None,
        graft: AdamLength | None = None,
        eigenbasis: bool = False,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        fisher: Fisher = "sampled",
        likelihood: str | Likelihood = "categorical",
        sharing: Sharing = "expand",
        generator: torch.Generator | None = None,
        groups: Iterable[dict[str, Any]] | None = None,
        fallback: Fallback | None = None,
        capturable: bool | None = None,
    ) -> None:
        check_range("lr", lr, 0, math.inf)
        check_range("momentum", momentum, 0, 1)
        check_range("weight_decay", weight_decay, 0, math.inf)
        self._options = Options(
            damping=damping,
            relative_damping=relative_damping,
            factor_decay=factor_decay,
            curvature_interval=curvature_interval,
            inverse_interval=inverse_interval,
            overlap=overlap,
            kl_clip=kl_clip,
            trust_region=trust_region,
            graft=graft,
            eigenbasis=eigenbasis,
            fisher=fisher,
            likelihood=likelihood,
            sharing=sharing,
        )
        self._layers, reasons = find_layers(module)
        checked = parameter_groups(module, groups)
        flats, uncovered = lay_out(
            module, self._layers.values(), checked, graft=graft, eigenbasis=eigenbasis, dense=capturable
        )
        self._fallback = make_fallback(module, uncovered, fallback, reasons)
        if not flats:
            raise InputError("module: none of its trained parameters has a curvature block, K-FAC has nothing to do")
        for group in checked:
            group["params"] = [p for p in group["params"] if not any(p is u for u in uncovered)]
        others = [] if self._fallback is None else [{**g, "fallback": True} for g in self._fallback.param_groups]
        self._sealed = False
        super().__init__([*checked, *others], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._sealed = True
        self._link_fallback()
        self._blocks = BlockSet(flats, decoupled=decoupled_weight_decay)
        self._refresh = (
            EigenRefresh(self._blocks.eigen_stacks, relative=relative_damping)
            if eigenbasis
            else InverseRefresh(self._blocks.stacks, overlap, relative=relative_damping)
        )
        device = next(p.device for g in self.param_groups for p in g["params"])
        self._generator = torch.Generator(device).manual_seed(0) if generator is None else generator
        self._damping = damping_at(damping, 0, None)
        self._steps, self._observations, self._refreshed_after = 0, 0, -1
        self._soundness = Soundness(device, waits=device.type == "cpu" if capturable is None else not capturable)
        self._trust = None if trust_region is None else TrustRegion(trust_region, device)
        self._last_scale: float | Tensor = math.nan
        self._predicted: Tensor | None = None
        self._capture: Capture | None = None
        self._closed = False

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._steps

    @property
    def damping(self) -> float:
        """λ of the next refresh."""
        return self._damping

    @property
    def curvature_due(self) -> bool:
        """Whether the coming step observes curvature, that is whether `curvature()` is active."""
        return self._observations == 0 or self._steps % self._options.curvature_interval == 0

    def factors(self) -> dict[str, KroneckerFactors]:
        """Returns the moving averages of A and G by block name, not copied; 0 for blocks not yet observed."""
        return self._blocks.factors()

    def curvature(self, *, batch_size: int | None = None) -> Capture:
        """Returns the context of the coming step's forward pass; free of cost unless `curvature_due`.

        Args:
            batch_size: examples that the loss is a mean over; by default the first dimension of each layer's input.
                Needed only where a model folds another dimension into the batch.
        """
        self._check_open()
        if self._capture is not None:
            self._capture.release()
            self._blocks.forget_samples()
        self._capture = Capture(
            self._layers,
            active=self.curvature_due,
            fisher_loss=lambda outputs, loss, weights: self._options.fisher_loss(
                outputs, loss, weights, self._generator
            ),
            sharing=self._options.sharing,
            batch_size=batch_size,
            absorb=self._absorb,
            sample=self._blocks.sample if self._options.eigenbasis else None,
        )
        return self._capture

    @torch.no_grad()
    def _absorb(self, factors: dict[LayerCurvature, list[KroneckerFactors]]) -> None:
        decay = self._options.factor_decay
        self._observations += self._blocks.absorb(factors, decay, self._soundness, self._steps)
        for stack in self._blocks.eigen_stacks:
            stack.damp(self._damping, relative=self._options.relative_damping)

    def prepare(self) -> None:
        """Does what a step decides on the host: damping's schedule, refresh of inverses, the count of steps."""
        self._check_open()
        if self._capture is None and not self._observations:
            raise InputError("step(): no curvature observed yet; run the model inside `with optimizer.curvature()`")
        self._damping = damping_at(self._options.damping, self._steps, self._damping)
        self._refresh.install_if_due(self._steps)
        seen = self._observations
        young = seen != self._refreshed_after and seen & (seen - 1) == 0
        if seen and (young or self._steps % self._options.inverse_interval == 0):
            self._refresh.start(self._steps, self._damping, at_once=self._refreshed_after < 0)
            if self._refreshed_after < 0:
                warn_of_unseen(self._blocks.unseen())
            self._refreshed_after = seen
            self._soundness.report_skipped(self._steps)
        self._steps += 1

    @torch.no_grad()
    def apply(self) -> bool:
        """Does what a step does on the device: preconditions, clips, moves the parameters.

        Returns:
            Whether parameters moved: False if a gradient was not finite. On an accelerator, where the answer would mean
            a wait, always True.
        """
        groups, blocks, trust = self.param_groups, self._blocks, self._trust
        blocks.precondition(groups)
        scale = self._scale()
        if scale is None:
            return False
        self._last_scale = scale
        blocks.turn(groups, scale)
        if trust is not None:
            blocks.shorten(trust.guess(blocks.curvature() / 2))
        blocks.add()
        if self._fallback is not None:
            self._fallback.step()
        return True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: reevaluates the model, with gradients, and returns the loss; it uses `curvature()` itself.

        Returns:
            The closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.prepare()
        moved = self.apply()
        adaptive = self._options.damping
        due = moved and isinstance(adaptive, LevenbergMarquardt) and self._steps % adaptive.interval == 0
        self._predicted = self._blocks.predicted_change() if due else None
        return loss

    def close(self) -> None:
        """Ends the optimizer's use: removes hooks and threads. State can still be read."""
        if self._capture is not None:
            self._capture.release()
        self._refresh.close()
        self._closed = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuses groups after construction: blocks are laid out once."""
        if self._sealed:
            raise InputError("add_param_group(): KFAC's parameters are fixed when it is made; pass groups= there")
        super().add_param_group(param_group)

    def _scale(self) -> Tensor | float | None:
        """Returns the KL clip's factor, NaN (on an accelerator) or None (on a CPU) where a gradient is not finite."""
        size = self._blocks.alignment(self.param_groups)
        if self._fallback is not None:
            grads = [p.grad for g in self._fallback.param_groups for p in g["params"] if p.grad is not None]
            # Adds nothing but NaN: 0 times what is not finite.
            size = size + (0 * torch.stack(torch._foreach_norm(grads)).sum() if grads else 0)
        options = self._options
        clip = options.kl_clip if options.trust_region is None and options.graft is None else None
        return self._soundness.clipped_scale(size, math.inf if clip is None else 2 * clip, self._steps)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("KFAC: used after close()")
