#!/usr/bin/env bash
# Everything the GPU code has to show, stage by stage, in less than ten minutes on an H100 with 16 cores. Each stage has
# its own limit and writes its JSON at once, so that what is finished stays where a later stage fails or all is killed.
# It needs an environment on the PATH with PyTorch, ALE and pytest; no Ray, no MLflow.
#
#   benchmarks/gpu.sh [OUT_DIR] [--small]     writes OUT_DIR/*.json (default runs/benchmarks/gpu)
#
# --small is the same on a CPU, in a few steps, to see that it works.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/benchmarks/gpu small=()
for word in "$@"; do
  if [ "$word" = --small ]; then small=(--small); else out=$word; fi
done
mkdir -p "$out"
# One thread for PyTorch's operators on the CPU. ALE's threads are told apart, by the stages that evaluate.
export OMP_NUM_THREADS=1
failed=0

stage() { # stage LIMIT_SECONDS NAME [WORD...]
  local limit=$1 name=$2
  shift
  timeout -k 5 "$limit" python -m benchmarks.gpu "$@" --out "$out" "${small[@]}" || {
    echo "gpu: stage $name ended with exit code $? (its limit is $limit s)" >&2
    failed=1
  }
}

stage 60 machine
stage 120 tests
for variant in rainbow trl-5x kfac-trl-10x scattering; do stage 45 trial "$variant"; done
stage 45 profile trl-5x
stage 110 together trl-5x
stage 70 together trl-5x --mps
stage 200 whole trl-5x
exit "$failed"
