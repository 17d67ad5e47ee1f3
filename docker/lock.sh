#!/usr/bin/env bash
# Writes the image's locks from pyproject.toml and constraints.txt, every file that a version has by its SHA-256; run it in
# the source's root after either changed (`make lock`).
#
#   docker/requirements.lock    what TensorRL needs, with its servers and ONNX, for Linux on any processor, Python 3.11 and newer
#   docker/build.lock           what builds TensorRL's wheel
#
# It asks the package index that pip's and uv's configuration name. No lock names one.
set -euo pipefail

cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "lock.sh: uv is not installed (make install brings it)" >&2; exit 2; }

lock() {
    local out=$1 draft
    draft=$(mktemp)
    python3 docker/requirements.py pyproject.toml "${@:2}" |
        uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
            --constraint constraints.txt --output-file "$draft" -
    { echo "# Written by docker/lock.sh from pyproject.toml and constraints.txt; not edited by hand."; cat "$draft"; } >"$out.draft"
    mv "$out.draft" "$out"
    rm -f "$draft"
}

lock docker/requirements.lock server onnx
lock docker/build.lock build
