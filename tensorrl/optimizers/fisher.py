"""Losses whose gradients at the layers' outputs are samples of the Fisher information.

The Fisher of a model is the expected outer product of its log-likelihood's gradient *with targets drawn from the
model itself* (Martens & Grosse 2015, section 5). Each function here draws such targets and returns the negative
log-likelihood; a seeded generator makes the draws repeatable. The batch is always dimension 0, and a loss is the
mean over it and the sum over everything else, which is what `KFAC` takes its factors to mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tensorrl.errors import InputError


def _scales(weights: Tensor | None, outputs: Tensor) -> Tensor | None:
    """Square roots of per-example loss weights, shaped to multiply `outputs`' leading dimension."""
    if weights is None:
        return None
    if weights.shape != outputs.shape[:1]:
        raise InputError(f"weights: shape {tuple(weights.shape)}, but the batch has {outputs.shape[0]} examples")
    return weights.detach().sqrt()


def sample_categorical(
    logits: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy against categories drawn from the model's own softmax over the last axis.

    Args:
        logits: (batch, ..., categories); for the agent the taken action's atoms, (batch, atoms).
        generator: source of the draws, on the logits' device.
        weights: (batch,) non-negative loss weights w, e.g. importance weights. Independent draws of the loss Σ wᵢ ℓᵢ
            have the Fisher Σ wᵢ Fᵢ, hence each example's gradient is scaled by √wᵢ.

    Returns:
        A scalar, the mean over the batch of the sum over the middle axes.
    """
    if logits.dim() < 2:
        raise InputError(f"logits: shape {tuple(logits.shape)}, must be (batch, ..., categories)")
    log_probabilities = logits.log_softmax(-1)
    with torch.no_grad():
        # The race of exponential clocks draws from the softmax without a host synchronisation, and passes NaN on
        # to the gradient (where it is reported) instead of raising here.
        clocks = torch.empty_like(log_probabilities).exponential_(generator=generator)
        drawn = (log_probabilities - clocks.log()).argmax(-1, keepdim=True)
    losses = -log_probabilities.gather(-1, drawn).flatten(1).sum(1)
    scales = _scales(weights, logits)
    return (losses if scales is None else losses * scales).mean()


def sample_gaussian(
    means: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None, *, variance: float = 1.0
) -> Tensor:
    """Squared error against targets drawn around the model's own outputs: the Fisher of MSE, and of Huber near zero.

    The Fisher is JᵀJ / variance, the Gauss-Newton matrix of ‖f − y‖² / (2·variance). For `nn.MSELoss` over d outputs
    (whose second derivative is 2/d) that is `variance=d / 2`; for ½‖f − y‖² it is 1. Huber's second derivative is
    that of ½‖f − y‖² within its threshold and 0 beyond, so variance 1 bounds it from above.

    Args:
        means: (batch, ...).
        generator: source of the draws, on the means' device.
        weights: (batch,) loss weights, as in `sample_categorical`.
        variance: of the Gaussian, above 0.

    Returns:
        A scalar, the mean over the batch of ‖f − y‖² / (2·variance).
    """
    if variance <= 0:
        raise InputError(f"variance: {variance}, must be above 0")
    noise = torch.empty_like(means.detach()).normal_(generator=generator) * math.sqrt(variance)
    targets = means.detach() + noise
    losses = (means - targets).square().flatten(1).sum(1) / (2 * variance)
    scales = _scales(weights, means)
    return (losses if scales is None else losses * scales).mean()


def categorical_divergence(before: Tensor, after: Tensor) -> Tensor:
    """Returns KL(before ‖ after) of softmax distributions over the last axis, in nats.

    Args:
        before: logits (batch, ..., categories).
        after: likewise.

    Returns:
        0-dim, the mean over the batch of the sum over the middle axes.
    """
    log_before = before.log_softmax(-1)
    return (log_before.exp() * (log_before - after.log_softmax(-1))).flatten(1).sum(1).mean()


def gaussian_divergence(before: Tensor, after: Tensor) -> Tensor:
    """Returns KL(before ‖ after) of Gaussians with variance 1 around means (batch, ...), in nats; see above."""
    return (before - after).square().flatten(1).sum(1).mean() / 2
