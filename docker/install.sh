#!/usr/bin/env bash
# The steps of the image. Each is run by the Dockerfile, and by the tests without an engine, from the source's root.
#
#   install.sh dependencies VENV    a virtual environment with what TensorRL needs, each file by its hash
#   install.sh wheel DIST           TensorRL's wheel
#   install.sh project VENV DIST    that wheel into that environment
set -euo pipefail

usage() {
    sed -n 's/^#   /  /p' "$0" >&2
    exit 2
}

pip_of() {
    "$1/bin/python" -m pip "${@:2}"
}

# Bytecode is compiled without the tests of libraries, of which some do not compile on purpose.
compile() {
    "$1/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$1"/lib >/dev/null 2>&1 || true
}

dependencies() {
    local venv=$1 torch
    python3 -m venv "$venv"
    cp docker/requirements.lock "$venv/requirements.txt"
    if [ -n "${TORCH_INDEX:-}" ]; then
        # Another build than the one that the lock has the hash of; CUDA's libraries, which it does not need, are left out.
        # An entry of the lock is its first line and those that are indented.
        awk '/^[^ ]/ { skip = /^(torch|triton|nvidia-|cuda-)/ } !skip' docker/requirements.lock >"$venv/requirements.txt"
        torch=$(sed -n 's/^torch==/torch==/p' constraints.txt)
        pip_of "$venv" install --quiet --no-compile --constraint constraints.txt --index-url "$TORCH_INDEX" "$torch"
    fi
    pip_of "$venv" install --quiet --no-compile --require-hashes --requirement "$venv/requirements.txt"
    compile "$venv"
}

wheel() {
    local dist=$1 tools
    tools=$(mktemp -d)
    python3 -m venv "$tools"
    pip_of "$tools" install --quiet --require-hashes --requirement docker/build.lock
    pip_of "$tools" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$dist" .
    rm -rf "$tools"
}

project() {
    local venv=$1 dist=$2
    pip_of "$venv" install --quiet --no-deps --no-index --no-compile "$dist"/tensorrl-*.whl
    pip_of "$venv" check
    compile "$venv"
}

case "${1:-} $#" in
    "dependencies 2") dependencies "$2" ;;
    "wheel 2") wheel "$2" ;;
    "project 3") project "$2" "$3" ;;
    *) usage ;;
esac
