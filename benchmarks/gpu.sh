#!/usr/bin/env bash
# Everything the GPU code has to show, in one call of less than 10 minutes on an H100 with 16 cores: the tests marked
# `gpu`, a profile of an update, trials side by side, and one whole trial. Needs an installed environment on the PATH:
#
#   benchmarks/gpu.sh [OUT_DIR]        writes OUT_DIR/gpu.json and OUT_DIR/gpu-tests.txt (default runs/benchmarks)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-runs/benchmarks}
mkdir -p "$out"
export OMP_NUM_THREADS=1
status=0
timeout 180 python -m pytest -m gpu -q 2>&1 | tee "$out/gpu-tests.txt" || status=$?
timeout 390 python -m benchmarks.gpu --variant trl-5x --at-once 1 4 8 16 24 --steps 4000 --whole --json "$out/gpu.json"
exit "$status"
