# Two commands are enough: `make repro` and `make test`. `make help` lists the others.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

.DEFAULT_GOAL := help
.PHONY: help repro test test-all lint ui bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: $(VENV)/ready ## run the whole chain on the embedded sample
	dvc repro
	@atelier where

test: $(VENV)/ready ## run the tests
	pytest -n 2 --dist loadfile -m "not slow"

test-all: $(VENV)/ready ## run the tests, the slow ones too
	pytest -n 2 --dist loadfile

lint: $(VENV)/ready ## check style and types
	ruff format --check
	ruff check
	mypy

ui: $(VENV)/ready ## open MLflow on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1

bench: $(VENV)/ready ## measure speed against plain loops, and the chain's overhead (an hour)
	python benchmarks/train.py --side 64 --json
	python benchmarks/train.py --side 32 --json
	python benchmarks/convert.py --json
	python benchmarks/style.py --json
	python benchmarks/tracking.py --json
	python benchmarks/startup.py --json

lock: $(VENV)/ready ## pin the newest versions that pyproject.toml allows
	uv pip compile --quiet --universal --generate-hashes --extra dev --no-header \
	  --no-emit-index-url --no-emit-find-links --no-annotate pyproject.toml -o requirements.lock

clean: ## remove what the stages made; DVC's cache and MLflow's runs stay
	rm -rf data/raw data/images.npz data/held_out.npz data/listing/*.json models samples renders styled metrics plots
	rm -rf dvc_plots .atelier-*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Pinned packages, then the project itself; the shell that activates it sends no telemetry.
$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Atelier needs Python 3.11 or later; set PYTHON=, as in: make repro PYTHON=python3.12"; exit 1; }
	@echo 'Installing the pinned packages, 6 GB with PyTorch and CUDA; this takes some minutes.'
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo 'export MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true' >> $(VENV)/bin/activate
	@touch $@
