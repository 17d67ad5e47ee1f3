"""The scattering transform by matrix products alone, for formats and runtimes that have no fast Fourier transform."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.networks.scattering import ScatteringStem


class _Complex(NamedTuple):
    real: Tensor
    imaginary: Tensor


class MatrixScattering(nn.Module):
    """What `ScatteringStem.encode` computes, up to rounding: Fourier transforms are products with their matrices.

    Args:
        stem: with one layer of wavelets.

    Raises:
        InputError: it has two.
    """

    def __init__(self, stem: ScatteringStem) -> None:
        super().__init__()
        if stem.max_order != 1:
            raise InputError(f"scattering of order {stem.max_order} cannot be exported (allowed: 1)")
        self.stem = stem
        for level in range(stem.J):
            for name, size in zip(("rows", "columns"), stem.padded_shape, strict=True):
                angles = _angles(size >> level)
                self.register_buffer(f"cos_{name}_{level}", angles.cos().float(), persistent=False)
                self.register_buffer(f"sin_{name}_{level}", angles.sin().float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Transforms frames (n, 84, 84) uint8 into features (n, channels, height, width) float16."""
        stem = self.stem
        pixels = frames.flatten(1).to(torch.float32) * (1 / 255)
        padded = pixels.index_select(1, stem.pad_index).reshape(-1, 1, *stem.padded_shape)
        spectrum = self._transform(_Complex(padded, torch.zeros_like(padded)), 0, -1)
        maps = [stem._lowpass(padded, 0)]
        for j in range(stem.J):
            transfer = getattr(stem, f"wavelets_0_{j}")[..., 0]
            product = _Complex(spectrum.real * transfer, spectrum.imaginary * transfer)
            for _ in range(j):
                product = _Complex(_folded(product.real), _folded(product.imaginary))
            response = self._transform(product, j, 1)
            maps.append(stem._lowpass((response.real.square() + response.imaginary.square()).sqrt(), j))
        return (torch.cat(maps, dim=1) * stem.gain).to(stem.stored_dtype)

    def _transform(self, maps: _Complex, level: int, sign: int) -> _Complex:
        """Σ x(r, c) exp(sign·2πi(r·u/R + c·v/C)) of maps (…, R, C) on a level's grid."""
        cos_rows, sin_rows = getattr(self, f"cos_rows_{level}"), getattr(self, f"sin_rows_{level}")
        cos_columns, sin_columns = getattr(self, f"cos_columns_{level}"), getattr(self, f"sin_columns_{level}")
        # The sign goes to the maps, not to the matrices: an exported model then holds each matrix once.
        imaginary = sign * maps.imaginary
        by_row = _Complex(cos_rows @ maps.real - sin_rows @ imaginary, sin_rows @ maps.real + cos_rows @ imaginary)
        return _Complex(
            by_row.real @ cos_columns - by_row.imaginary @ sin_columns,
            sign * (by_row.real @ sin_columns + by_row.imaginary @ cos_columns),
        )


def _angles(size: int) -> Tensor:
    steps = torch.arange(size, dtype=torch.float64)
    return 2 * math.pi / size * (steps[:, None] * steps % size)


def _folded(maps: Tensor) -> Tensor:
    """Halves a grid: the sum of its spectrum's two halves, by row and by column."""
    rows, columns = maps.shape[-2] // 2, maps.shape[-1] // 2
    maps = maps[..., :rows, :] + maps[..., rows:, :]
    return maps[..., :columns] + maps[..., columns:]
