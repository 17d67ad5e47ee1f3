# Everything a newcomer needs: `make debug` to see it work, `make test` to check it. Each target installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

# Bytecode is compiled on all cores and without the tests of libraries, where pip would take one core and everything.
# Without bytecode each process of a sweep imports in twice the time wherever PYTHONDONTWRITEBYTECODE is set. Some
# libraries ship files that do not compile on purpose, hence the `|| true`.
PIP_INSTALL := $(PIP) install --quiet --no-compile --constraint constraints.txt --editable
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib >/dev/null 2>&1 || true

.PHONY: help install debug test test-fast test-slow test-gpu test-cluster smoke lint types format \
	bench bench-throughput bench-speeds bench-trl bench-kfac bench-scattering bench-policies bench-gpu \
	bench-overhead bench-scaling results lock clean

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 22

install: $(INSTALLED) ## creates .venv with the pinned packages (PYTHON=python3.12 picks another interpreter)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "TensorRL needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
			"Name another: make install PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		rm -rf $(VENV); exit 2; }

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the pinned packages into $(VENV): a minute or two on a fast network ..."
	@$(PIP_INSTALL) '.[dev,server]'
	@$(COMPILE)
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED)
	@echo "Adding the peers that the benchmarks run beside TensorRL ..."
	@$(PIP_INSTALL) '.[dev,bench,server]'
	@$(COMPILE)
	@touch $@

debug: install ## runs a small real sweep (2 games x 2 variants) and says how to open the MLflow UI on it
	$(BIN)/tensorrl sweep tune_jobs/debug.yaml
	@echo
	@echo "Open the MLflow UI on these runs with"
	@echo "  $(BIN)/mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$${TENSORRL_STORE:-runs}/mlflow.db}"
	@echo "and compare score with compression_ratio in the experiment 'debug'."

test: install ## checks style and types, runs the fast tests, then a tiny sweep through the command line
	@$(MAKE) lint types test-fast smoke

test-fast: install ## runs the fast tests
	$(BIN)/python -m pytest

test-slow: install ## runs the tests that take minutes or kill processes
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-gpu: install ## runs the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-cluster: install ## runs a sweep on several hosts of this machine that fail (root, PostgreSQL; a few minutes)
	timeout --signal=INT --kill-after=120 3600 $(BIN)/python -m pytest -m cluster tests/cluster

smoke: install ## runs a real trial past its warm-up, by the command line, in a temporary folder
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	unset MLFLOW_TRACKING_URI RAY_ADDRESS TENSORRL_STORE && \
	$(BIN)/tensorrl sweep tests/smoke.yaml --out "$$out/smoke" && \
	test -s "$$out"/smoke/pong-denoised-seed0-*/result.json && test -s "$$out"/smoke/mlflow.db

lint: install ## checks style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## checks types, strictly
	$(BIN)/mypy

format: install ## formats the code and mends what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: bench-throughput bench-trl bench-kfac bench-scattering ## runs every benchmark below

# PEERS names checkouts that you have: make bench PEERS='--kaixhin ../Rainbow --cleanrl ../cleanrl'
bench-throughput: $(INSTALLED_BENCH) ## steps/s beside the peers, an update beside its floor, replay, start-up
	$(BIN)/python -m benchmarks.throughput --json runs/benchmarks/throughput.json $(PEERS)
	$(BIN)/python -m benchmarks.floor --json runs/benchmarks/floor.json
	$(BIN)/python -m benchmarks.replay --json runs/benchmarks/replay.json
	$(BIN)/python -m benchmarks.startup --json runs/benchmarks/startup.json

bench-speeds: install ## measures anew what `tensorrl sweep --check` reckons with (tensorrl/data/trial_speeds.csv)
	$(BIN)/python -m benchmarks.trial_speeds

bench-trl: $(INSTALLED_BENCH) ## tensor regression layers beside dense layers and TensorLy-Torch
	$(BIN)/python -m benchmarks.trl

# KFAC_PEERS names a checkout that you have: make bench-kfac KFAC_PEERS='--kfac-pytorch ../kfac-pytorch'
bench-kfac: $(INSTALLED_BENCH) ## K-FAC beside Adam and other K-FACs
	$(BIN)/python -m benchmarks.kfac $(KFAC_PEERS)

bench-scattering: $(INSTALLED_BENCH) ## the scattering stem beside Kymatio
	$(BIN)/python -m benchmarks.scattering

bench-policies: install ## exported policies: size of the file and time for one action
	$(BIN)/python -m benchmarks.policies

bench-gpu: $(INSTALLED_BENCH) ## on a machine with a GPU: its tests, trials side by side, a whole trial
	PATH="$(abspath $(BIN)):$$PATH" benchmarks/gpu.sh

bench-overhead: install ## two trials under Tune with MLflow beside two bare processes, in turn
	$(BIN)/python -m benchmarks.overhead --json runs/benchmarks/overhead.json

bench-scaling: install ## what a cell costs driver, Ray and MLflow: 1,000 cells that do nothing (half an hour)
	$(BIN)/python -m benchmarks.scaling --json runs/benchmarks/scaling.json

lock: install ## writes the image's locks, with the hash of every file, after a change of versions (docker/lock.sh)
	PATH="$(abspath $(BIN)):$$PATH" docker/lock.sh

results: install ## makes the tables and figures of docs/results.md and docs/kfac.md from the data beside them
	$(BIN)/python -m benchmarks.results

clean: ## removes caches and build outputs; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tensorrl tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
