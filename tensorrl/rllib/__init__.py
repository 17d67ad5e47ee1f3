"""TensorRL's agents as an RLlib algorithm: `RainbowConfig().environment("pong").variant("denoised").build_algo()`."""

from tensorrl.rllib.algorithm import Rainbow, RainbowConfig
from tensorrl.rllib.env_runner import AtariEnvRunner
from tensorrl.rllib.kfac import KFACLearnerMixin
from tensorrl.rllib.learner import RainbowLearner
from tensorrl.rllib.module import RainbowModule

__all__ = [
    "AtariEnvRunner",
    "KFACLearnerMixin",
    "Rainbow",
    "RainbowConfig",
    "RainbowLearner",
    "RainbowModule",
]
