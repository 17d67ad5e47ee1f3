"""NoisyNet: a dense layer whose weights carry learned, factorised Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tensorrl.networks.matmul import linear


class NoisyLinear(nn.Module):
    """Dense layer with factorised Gaussian noise (Fortunato et al. 2018, section 3.1, option b).

    weight = mu + sigma ⊙ (f(e_out) f(e_in)ᵀ), bias = mu_b + sigma_b ⊙ f(e_out), f(x) = sign(x) √|x|. The noise is one
    draw for a whole batch, replaced by `set_noise`. In evaluation mode (`.eval()`) the layer is its mean.

    Args:
        in_features: size of the last input dimension.
        out_features: size of the last output dimension.
        sigma: σ0; every sigma starts at σ0 / √in_features (0.1 in data-efficient Rainbow, 0.5 in Rainbow).
    """

    in_noise: Tensor
    out_noise: Tensor

    def __init__(self, in_features: int, out_features: int, *, sigma: float = 0.1) -> None:
        super().__init__()
        self.in_features, self.out_features, self.sigma = in_features, out_features, sigma
        bound = 1 / math.sqrt(in_features)
        self.weight_mu = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma * bound))
        self.bias_mu = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma * bound))
        self.register_buffer("in_noise", torch.zeros(in_features))
        self.register_buffer("out_noise", torch.zeros(out_features))
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def noise_size(self) -> int:
        """Number of standard normals one draw consumes."""
        return self.in_features + self.out_features

    def set_noise(self, noise: Tensor) -> None:
        """Takes a new draw and forms the noisy weights once, for every forward pass until the next draw.

        The weights must not change between this call and the passes that use it: draw after each update.

        Args:
            noise: (in_features + out_features,) values of f(e), e standard normal.
        """
        self.in_noise.copy_(noise[: self.in_features])
        self.out_noise.copy_(noise[self.in_features :])
        self.form_draw()

    def form_draw(self) -> None:
        """Forms the noisy weights of the noise last drawn, for every pass until the next draw."""
        self._drawn = self.noisy_weights()

    def noisy_weights(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in) and bias (out,) under the present noise, differentiable in mu and sigma."""
        weight = torch.addcmul(self.weight_mu, self.weight_sigma, torch.outer(self.out_noise, self.in_noise))
        return weight, torch.addcmul(self.bias_mu, self.bias_sigma, self.out_noise)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        if not self.training:
            return linear(x, self.weight_mu, self.bias_mu)
        weight, bias = self._drawn or self.noisy_weights()
        return linear(x, weight, bias)

    def forget_draw(self) -> None:
        """Drops the weights formed by `set_noise`; the next pass forms them from the stored noise."""
        self._drawn = None

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, sigma={self.sigma}"


def scaled_noise(size: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Draws (size,) values of f(e) = sign(e) √|e|, e standard normal."""
    e = torch.randn(size, generator=generator, device=generator.device).to(device)
    return e.sign() * e.abs().sqrt_()
