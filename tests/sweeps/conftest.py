"""Puts what tests of several rooms of sweeps share (tiny_sweep, bucket) where they find it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
