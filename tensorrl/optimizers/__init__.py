"""What turns gradients into updates, beside PyTorch's own optimizers."""

from tensorrl.optimizers.blocks import LayerCurvature, register_block
from tensorrl.optimizers.damping import LevenbergMarquardt
from tensorrl.optimizers.fisher import sample_categorical, sample_gaussian
from tensorrl.optimizers.kfac import KFAC

__all__ = [
    "KFAC",
    "LayerCurvature",
    "LevenbergMarquardt",
    "register_block",
    "sample_categorical",
    "sample_gaussian",
]
