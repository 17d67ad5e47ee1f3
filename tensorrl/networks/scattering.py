"""A stem that is not learned: wavelet scattering with Kymatio's filters and values, evaluated once per frame."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from kymatio.scattering2d.filter_bank import filter_bank
from kymatio.scattering2d.utils import compute_padding
from numpy.typing import NDArray
from torch import Tensor, nn

from tensorrl.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FilterBank:
    """Kymatio's Morlet filters for one frame shape, in the form the stem uses them.

    A *level* r is a grid subsampled by 2^r; frames, padded by reflection, are level 0.

    Attributes:
        wavelets: (level, j) → transfer functions of scale j on that level, (L, rows, columns).
        lowpass: for each level, matrices (H, rows) and (columns, W) that blur by 2^J, subsample to 2^J and crop.
        pad_rows: (padded rows,) which row of a frame each padded row repeats.
        pad_columns: (padded columns,) likewise.
    """

    wavelets: dict[tuple[int, int], Array]
    lowpass: list[tuple[Array, Array]]
    pad_rows: NDArray[np.int64]
    pad_columns: NDArray[np.int64]


@functools.lru_cache(maxsize=16)
def build_filters(J: int, L: int, shape: tuple[int, int]) -> FilterBank:
    """Builds the filters of a scattering of scale 2^J with L orientations for frames of a shape.

    The result is shared between calls and must not be changed.
    """
    rows, columns = compute_padding(*shape, J)
    bank = filter_bank(rows, columns, J, L)
    levels = {j: [f["levels"] for f in bank["psi"] if f["j"] == j] for j in range(J)}
    return FilterBank(
        wavelets={
            (level, j): np.stack([f[level] for f in levels[j]]).astype(np.float64)
            for j in range(J)
            for level in range(len(levels[j][0]))
            if level == 0 or level < j
        },
        lowpass=[_lowpass_matrices(phi, 2 ** (J - level)) for level, phi in enumerate(bank["phi"]["levels"])],
        pad_rows=_reflection(shape[0], rows),
        pad_columns=_reflection(shape[1], columns),
    )


def _reflection(size: int, padded: int) -> NDArray[np.int64]:
    """Index of the pixel each position of a padded axis repeats; an odd pixel of padding goes to the end."""
    before = (padded - size) // 2
    return np.pad(np.arange(size), (before, padded - size - before), mode="reflect")


def _lowpass_matrices(transfer: NDArray[np.float32], step: int) -> tuple[Array, Array]:
    """Matrices R, C with R u C = the map u blurred by `transfer`, every `step`-th sample, without the outermost ones.

    The low-pass is a round Gaussian, so its transfer function is an outer product, which the singular vectors give.
    """
    left, scale, right = np.linalg.svd(transfer.astype(np.float64))
    root = math.sqrt(scale[0]) * np.sign(left[0, 0])
    return _circulant_rows(root * left[:, 0], step), _circulant_rows(root * right[0], step).T


def _circulant_rows(transfer: Array, step: int) -> Array:
    size = len(transfer)
    kernel = np.fft.ifft(transfer).real
    kept = step * np.arange(1, size // step - 1)
    rows: Array = kernel[(kept[:, None] - np.arange(size)) % size]
    return rows


def expected_response(bank: FilterBank, max_order: int) -> Array:
    """Expected value of every channel on the model frame, from the filters alone.

    The model frame is stationary Gaussian noise with the spectrum of natural images: grey levels on [0, 1] with mean
    1/2 and variance 1/12, power falling as 1/|ω|² (Field 1987). Order 0 keeps the mean. A wavelet's response z is then
    complex Gaussian with variance s² = Σ power·|ψ̂|², so E|z| = s√π/2, which the low-pass keeps. Order 2 takes |z| for
    Gaussian noise with |z|'s own spectrum: its autocovariance is s²π/4·(|ρ|²/4 + |ρ|⁴/64) to second order in z's
    autocorrelation |ρ|².

    Returns:
        (C,) values in Kymatio's channel order.
    """
    rows, columns = len(bank.pad_rows), len(bank.pad_columns)
    distance = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns))
    distance[0, 0] = np.inf
    power = distance**-2.0
    power /= 12 * power.sum()

    scales = [j for level, j in bank.wavelets if level == 0]
    first, second = [np.array([0.5])], []
    for j in scales:
        for transfer in bank.wavelets[0, j]:
            response = power * transfer**2
            first.append(_rayleigh_mean(response))
            if max_order == 2:
                correlation = np.abs(np.fft.fft2(response)) ** 2 / response.sum() ** 2
                covariance = math.pi / 4 * response.sum() * (correlation / 4 + correlation**2 / 64)
                envelope = np.fft.ifft2(covariance).real
                second += [_rayleigh_mean(envelope * bank.wavelets[0, deeper] ** 2) for deeper in scales if deeper > j]
    return np.concatenate(first + second)


def _rayleigh_mean(spectrum: Array) -> Array:
    """Mean modulus of complex Gaussians with the variance that each (…, rows, columns) spectrum sums to."""
    return np.atleast_1d(math.sqrt(math.pi) / 2 * np.sqrt(spectrum.sum((-2, -1))))


class ScatteringStem(nn.Module):
    """Wavelet scattering of single frames (Bruna & Mallat 2013; Oyallon et al. 2018): x⋆φ_J, |x⋆ψ_{j,θ}|⋆φ_J, ….

    Nothing is learned, and the filters are rebuilt from the settings, which are all that `state_dict` holds. A wavelet
    layer is one product with all filters of a scale, one inverse FFT on the grid of that scale, and the low-pass with
    its subsampling as two small matrix products: no loop over filters. `encode` is what replay stores and the agent
    reads; `transform` is Kymatio's `ScatteringTorch2D` of frames / 255.

    A frame's features have the same bits whatever frames come with it, because by default each is transformed by calls
    of one shape. On a CPU the bits also depend on the number of threads and the math library.

    Args:
        J: log2 of the largest scale in pixels, at least 1.
        L: number of orientations, at least 1. Kymatio's filters are designed for 8.
        shape: rows and columns of a frame, at least 2^J each.
        max_order: layers of wavelets, 1 (the paper) or 2.

    Attributes:
        out_shape: (C, H, W) of a frame's features; C = 1 + J·L, and L²·J(J − 1)/2 more for order 2.
        channels: C.
        labels: what each channel is: scale in pixels, and the orientation of the lines it answers to, in degrees
            counter-clockwise from horizontal.
        stored_dtype: dtype of encoded features.

    Raises:
        InputError: a setting is out of range.
    """

    gain: Tensor
    pad_index: Tensor
    stored_dtype = torch.float16

    def __init__(self, J: int = 2, L: int = 4, shape: tuple[int, int] = (84, 84), max_order: int = 1) -> None:
        super().__init__()
        if J < 1 or L < 1:
            raise InputError(f"scattering: J={J}, L={L} must be at least 1")
        if min(shape) < 2**J:
            raise InputError(f"scattering: frames of {shape[0]}×{shape[1]} must measure at least 2^J = {2**J} a side")
        if max_order not in (1, 2):
            raise InputError(f"scattering: max_order={max_order} is not allowed (allowed: 1, 2)")
        self.J, self.L, self.shape, self.max_order = J, L, (int(shape[0]), int(shape[1])), max_order
        bank = build_filters(J, L, self.shape)
        self.padded_shape = len(bank.pad_rows), len(bank.pad_columns)
        self.labels = _labels(J, L, max_order)
        self.channels = len(self.labels)
        self.out_shape = (self.channels, len(bank.lowpass[0][0]), bank.lowpass[0][1].shape[1])
        self._register(bank)

    def _register(self, bank: FilterBank) -> None:
        for (level, j), transfer in bank.wavelets.items():
            if level == 0 or self.max_order == 2:
                # The inverse FFT's 1/size is in the filters. Each value stands twice, for the real and the imaginary
                # part: a product of complex with real tensors would first make the real one complex.
                pairs = np.repeat(transfer[..., None] / transfer[0].size, 2, axis=-1)
                self._constant(f"wavelets_{level}_{j}", pairs)
        for level, (rows, columns) in enumerate(bank.lowpass):
            self._constant(f"lowpass_rows_{level}", rows)
            self._constant(f"lowpass_columns_{level}", columns)
        self._constant("gain", 1 / expected_response(bank, self.max_order)[:, None, None])
        index = bank.pad_rows[:, None] * self.shape[1] + bank.pad_columns
        self.register_buffer("pad_index", torch.from_numpy(index.ravel()), persistent=False)

    def _constant(self, name: str, values: Array) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def encode(self, frames: Tensor, *, at_once: int = 1) -> Tensor:
        """Features as replay stores them: `transform`, each channel divided by its expected value on a model frame.

        The divisors (`expected_response`) are constants of the filters: nothing is estimated, so nothing has to be
        restored. They bring all channels to one scale, and to values that float16 holds.

        Args:
            frames: (n, rows, columns) uint8.
            at_once: as in `transform`.

        Returns:
            (n, C, H, W) float16.
        """
        return self.transform(frames, at_once=at_once).mul_(self.gain).to(self.stored_dtype)

    def forward(self, frames: Tensor) -> Tensor:
        """Same as `encode`."""
        return self.encode(frames)

    @torch.no_grad()
    def transform(self, frames: Tensor, *, at_once: int = 1) -> Tensor:
        """Scattering coefficients of frames / 255, equal to Kymatio's.

        Args:
            frames: (n, rows, columns) uint8, on the stem's device.
            at_once: frames transformed by one call. With 1, a frame's bits do not depend on the others; more is faster
                on a GPU, and equal up to rounding.

        Returns:
            (n, C, H, W) float32.

        Raises:
            InputError: frames of another shape or dtype, or `at_once` below 1.
        """
        if at_once < 1:
            raise InputError(f"scattering: at_once={at_once} must be at least 1")
        if frames.dtype != torch.uint8 or frames.dim() != 3 or tuple(frames.shape[1:]) != self.shape:
            raise InputError(
                f"scattering: frames are {tuple(frames.shape)} {frames.dtype}, "
                f"must be (n, {self.shape[0]}, {self.shape[1]}) torch.uint8"
            )
        out = torch.empty(len(frames), *self.out_shape, device=frames.device)
        for start in range(0, len(frames), at_once):
            chunk = slice(start, start + at_once)
            torch.cat(self._maps(frames[chunk]), dim=1, out=out[chunk])
        return out

    def _maps(self, frames: Tensor) -> list[Tensor]:
        pixels = frames.flatten(1).to(torch.float32).mul_(1 / 255)
        padded = pixels.index_select(1, self.pad_index).view(-1, 1, *self.padded_shape)
        spectrum = torch.fft.fft2(padded)

        first, second = [self._lowpass(padded, 0)], []
        for j in range(self.J):
            envelope = self._wavelet_modulus(spectrum, 0, j)
            first.append(self._lowpass(envelope, j))
            if self.max_order == 2 and j + 1 < self.J:
                below = torch.fft.fft2(envelope).unsqueeze(2)
                deeper = [self._lowpass(self._wavelet_modulus(below, j, k), k) for k in range(j + 1, self.J)]
                second.append(torch.cat(deeper, dim=2).flatten(1, 2))
        return first + second

    def _wavelet_modulus(self, spectrum: Tensor, level: int, j: int) -> Tensor:
        """|u⋆ψ_{j,θ}| on level j for every θ, from u's spectrum (…, 1, rows, columns) on a level: (…, L, ·, ·)."""
        product = torch.view_as_real(spectrum) * getattr(self, f"wavelets_{level}_{j}")
        for _ in range(j - level):
            # Halving a grid sums its spectrum's two halves.
            rows, columns = product.shape[-3] // 2, product.shape[-2] // 2
            product = product[..., :rows, :, :] + product[..., rows:, :, :]
            product = product[..., :columns, :] + product[..., columns:, :]
        response = torch.fft.ifft2(torch.view_as_complex(product), norm="forward")
        # Not `abs`, whose guard against overflow makes it three times slower.
        squares = torch.view_as_real(response).square_()
        return squares[..., 0].add(squares[..., 1]).sqrt_()

    def _lowpass(self, maps: Tensor, level: int) -> Tensor:
        # Rows first: a narrow left factor is a third quicker than a narrow right one.
        blurred: Tensor = getattr(self, f"lowpass_rows_{level}") @ maps @ getattr(self, f"lowpass_columns_{level}")
        return blurred

    def get_extra_state(self) -> Tensor:
        """The settings J, L, rows, columns, max_order, as integers."""
        return torch.tensor([self.J, self.L, *self.shape, self.max_order])

    def set_extra_state(self, state: Tensor) -> None:
        """Checks that a saved state is of the same settings.

        Raises:
            InputError: it is not; its features would mean something else.
        """
        saved, own = torch.as_tensor(state).tolist(), self.get_extra_state().tolist()
        if saved != own:
            raise InputError(f"scattering: saved with (J, L, rows, columns, max_order) = {saved}, this stem has {own}")

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"J={self.J}, L={self.L}, shape={self.shape}, max_order={self.max_order}"


def _labels(J: int, L: int, max_order: int) -> tuple[str, ...]:
    angles = [(int(L - L / 2 - 1) - index) * 180 / L % 180 for index in range(L)]
    wavelets = [(j, f"{2**j} px {angle:g}°") for j in range(J) for angle in angles]
    pairs = [f"{a} → {b}" for (j, a), (k, b) in itertools.product(wavelets, wavelets) if j < k and max_order == 2]
    return ("average", *(name for _, name in wavelets), *pairs)
