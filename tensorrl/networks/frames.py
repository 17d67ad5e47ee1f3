"""What replay keeps of a frame, by torso. It needs no PyTorch, so a sweep can estimate memory without loading it."""

from __future__ import annotations

import math
from typing import NamedTuple

FRAME_SHAPE = (84, 84)


class StoredFrame(NamedTuple):
    """A frame as replay keeps it.

    Attributes:
        shape: of the array.
        itemsize: bytes of an element: 1 for uint8 pixels, 2 for float16 features.
    """

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of a frame."""
        return math.prod(self.shape) * self.itemsize


WHOLE = StoredFrame(FRAME_SHAPE, 1)
"""The Nature torso's: the pixels as they are."""
PATCHES = StoredFrame((225, 25), 1)
"""The data-efficient torso's: the 75×75 pixels that it sees, as 225 patches of 5×5."""


def scattering_side(scale: int) -> int:
    """Rows and columns of the features after the convolution 5×5/5 that follows a scattering of scale J."""
    return ((FRAME_SHAPE[0] >> scale) - 5) // 5 + 1


def scattering_features(scale: int, orientations: int) -> StoredFrame:
    """The scattering torso's: (channels·25, positions) float16, 1 + J·L channels for scale J and L orientations."""
    return StoredFrame(((1 + scale * orientations) * 25, scattering_side(scale) ** 2), 2)
