"""Torsos: stacks of frames in, features out. Each says how a frame is laid out in replay, once, when it arrives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tensorrl.networks.frames import PATCHES, WHOLE, scattering_features, scattering_side
from tensorrl.networks.matmul import Linear


def _relu(x: Tensor) -> Tensor:
    """In place, unless a gradient is needed: autograd makes copies for a view changed in place."""
    return F.relu(x) if torch.is_grad_enabled() else F.relu_(x)


class PatchConv(Linear):
    """A convolution without padding whose stride is its kernel, as one matrix product over patches.

    Patches do not overlap, so there is nothing to slide: where `conv2d` would take (channels, height, width), this
    takes the patches themselves and is several times faster in the backward pass.

    Shape:
        patches (batch, positions, channels·kernel²) → (batch, positions, out_channels).

    Args:
        channels: input channels.
        out_channels: output channels.
        kernel: height and width of a patch.
        channels_last: whether a patch is laid out (row, column, channel) instead of (channel, row, column).
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, *, channels_last: bool = False) -> None:
        super().__init__(channels * kernel * kernel, out_channels)
        self.channels, self.kernel_size, self.channels_last = channels, kernel, channels_last

    @property
    def kernel(self) -> Tensor:
        """The weight as `conv2d` would take it, (out_channels, channels, kernel, kernel)."""
        k, c = self.kernel_size, self.channels
        if self.channels_last:
            return self.weight.view(-1, k, k, c).permute(0, 3, 1, 2)
        return self.weight.view(-1, c, k, k)


class DataEfficientTorso(nn.Module):
    """The two convolutions of data-efficient Rainbow: 4→32 5×5/5, 32→64 5×5/5, no padding (van Hasselt et al. 2019).

    Of 84×84 pixels the two strided layers see only the top left 75×75: 84 → 16 → 3 outputs, and 3·25 = 75. A frame is
    kept as the first layer's 225 patches of 25 pixels, in the order (row, column) of the second layer's output, then
    (row, column) inside its kernel. The first layer's result is then the second layer's input as it lies.
    """

    stored_shape: tuple[int, ...] = PATCHES.shape
    stored_dtype = torch.uint8
    keeps_frames = False
    out_shape: tuple[int, ...] = (64, 3, 3)

    def __init__(self, stack: int = 4) -> None:
        super().__init__()
        self.conv1 = PatchConv(stack, 32, 5)
        self.conv2 = PatchConv(32, 64, 5, channels_last=True)

    @staticmethod
    def encode(frames: Tensor) -> Tensor:
        """Lays out frames (n, 84, 84) uint8 as replay keeps them, (n, 225, 25) uint8."""
        patches = frames[:, :75, :75].reshape(-1, 3, 5, 5, 3, 5, 5)  # i u a j v b: output, patch, pixel by row, column
        return patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 225, 25)

    def prepare(self, stacks: Tensor) -> Tensor:
        """Makes patches (batch, 225, stack·25) of pixels from 0 to 1 of stacks (batch, stack, 225, 25)."""
        # As bytes, and by `cat`: a transposition of floats moves four times as much, in as many short runs.
        return torch.cat(stacks.unbind(1), 2).to(self.conv1.weight.dtype).mul_(1 / 255)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps what `prepare` gave, (batch, 225, stack·25), to features (batch, 64, 3, 3)."""
        first = _relu(self.conv1(patches))
        second = _relu(self.conv2(first.view(-1, 9, 800)))
        return second.transpose(1, 2).reshape(-1, 64, 3, 3)


class ScatteringTorso(nn.Module):
    """A fixed scattering stem, then one learned convolution, 5×5/5, to 64 channels.

    Replay keeps a frame's features, float16, as the patches of the convolution: (channels·25, positions), channel
    then pixel. Features do not compress and are recomputed to the same bits, so checkpoints keep the frames instead
    (`keeps_frames`).

    Args:
        stack: frames an observation holds.
        J: scale of the scattering, 2^J pixels.
        L: number of its orientations.
    """

    stored_dtype = torch.float16
    keeps_frames = True

    def __init__(self, stack: int = 4, *, J: int = 2, L: int = 4) -> None:
        # Kymatio's filters load SciPy, which other torsos do not need.
        from tensorrl.networks.scattering import ScatteringStem

        super().__init__()
        self.stem = ScatteringStem(J=J, L=L)
        channels = self.stem.out_shape[0]
        self.side = scattering_side(J)
        self.conv2 = PatchConv(stack * channels, 64, 5)
        self.stored_shape: tuple[int, ...] = scattering_features(J, L).shape
        self.out_shape: tuple[int, ...] = (64, self.side, self.side)

    def encode(self, frames: Tensor) -> Tensor:
        """Transforms frames (n, 84, 84) uint8 into stored features (n, channels·25, positions) float16."""
        reach, side = 5 * self.side, self.side
        features = self.stem.encode(frames)[..., :reach, :reach]
        patches = features.reshape(len(frames), -1, side, 5, side, 5).permute(0, 1, 3, 5, 2, 4)
        return patches.reshape(len(frames), *self.stored_shape)

    def prepare(self, stacks: Tensor) -> Tensor:
        """Converts stored features to floats."""
        return stacks.to(self.conv2.weight.dtype)

    def forward(self, stacks: Tensor) -> Tensor:
        """Maps stacks (batch, stack, channels·25, positions), as `prepare` returns them, to features."""
        batch, side = stacks.shape[0], self.side
        patches = stacks.reshape(batch, -1, side * side).transpose(1, 2)
        features = _relu(self.conv2(patches))
        return features.transpose(1, 2).reshape(batch, 64, side, side)


class NatureTorso(nn.Module):
    """The three convolutions of DQN (Mnih et al. 2015): 32 8×8/4, 64 4×4/2, 64 3×3/1. Frames are kept as they are."""

    stored_shape: tuple[int, ...] = WHOLE.shape
    stored_dtype = torch.uint8
    keeps_frames = False
    out_shape: tuple[int, ...] = (64, 7, 7)

    def __init__(self, stack: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(stack, 32, 8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3, stride=1)

    @staticmethod
    def encode(frames: Tensor) -> Tensor:
        """Frames (n, 84, 84) uint8, unchanged."""
        return frames

    def prepare(self, stacks: Tensor) -> Tensor:
        """Converts stored pixels to floats from 0 to 1."""
        return stacks.to(self.conv1.weight.dtype).mul_(1 / 255)

    def forward(self, stacks: Tensor) -> Tensor:
        """Maps stacks (batch, stack, 84, 84), as `prepare` returns them, to features (batch, 64, 7, 7)."""
        x = _relu(self.conv1(stacks))
        x = _relu(self.conv2(x))
        return _relu(self.conv3(x))
