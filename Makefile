# Two commands are enough: `make repro` and `make test`. `make help` lists the others.

PYTHON ?= python3
VENV := .venv
DOCS_VENV := .venv-docs
# `make repro TORCH=cpu` installs PyTorch without CUDA, from pip's index or from TORCH_INDEX=ADDRESS.
INSTALLED_TORCH := $(shell cat $(VENV)/torch 2>/dev/null)
TORCH ?= $(INSTALLED_TORCH)
TORCH_INDEX ?=
# The user's PATH, without an activated environment of this folder.
USER_PATH := $(subst $(CURDIR)/$(VENV)/bin:,,$(PATH))
export PATH := $(CURDIR)/$(VENV)/bin:$(USER_PATH)
# Other packages than the pinned ones, and other rules than the tests', must not get in; without
# compiled modules every process of the pipeline would compile them again.
unexport PYTHONHOME PYTHONPATH PYTHONOPTIMIZE PYTHONWARNINGS PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

SUPPORTED := 'import sys, sysconfig; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) \
  and sys.implementation.name == "cpython" and sys.maxsize > 2**32 \
  and not sysconfig.get_config_var("Py_GIL_DISABLED")))'

.DEFAULT_GOAL := help
.PHONY: help repro test test-all lint docs ui bench gpu lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The last stage leaves the list of results to `atelier results`, below DVC's last messages.
repro: export ATELIER_RESULTS_LATER := 1
repro: $(VENV)/ready ## run the whole pipeline on the built-in sample
	@python -m atelier.tracking.preflight
	dvc repro
	@atelier results

test: $(VENV)/ready ## run the tests
	pytest -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/ready ## run the tests, the slow ones too
	pytest -n 2 --dist worksteal --hypothesis-profile thorough

lint: $(VENV)/ready ## check style and types
	ruff format --check
	ruff check
	mypy

docs: $(DOCS_VENV)/ready ## build the documentation as web pages in site/
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

ui: $(VENV)/ready ## show the runs in MLflow; another port: make ui PORT=5001
	@atelier ui $(if $(PORT),--port $(PORT))

bench: $(VENV)/ready ## measure speed against plain loops, and the overhead of the pipeline (an hour)
	python benchmarks/train.py --side 64 --json
	python benchmarks/train.py --side 32 --json
	python benchmarks/convert.py --json
	python benchmarks/style.py --json
	python benchmarks/tracking.py --json
	python benchmarks/startup.py --json

COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header \
  --no-emit-index-url --no-emit-find-links --no-annotate

gpu: $(VENV)/ready ## measure training and style transfer on a GPU (8 minutes)
	python benchmarks/gpu.py --out gpu.json

lock: $(VENV)/ready ## pin the newest versions that pyproject.toml allows
	$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	$(COMPILE) --group docs -o requirements-docs.lock

clean: ## remove the outputs of stages; keep the caches and runs of DVC and MLflow
	rm -rf data/raw data/images.csv data/images.npz data/report.html data/validation.npz data/test.npz data/listing/*.json data/start/*.safetensors data/start.json data/inputs models samples renders styled metrics plots report.html
	rm -rf dvc_plots .atelier-* site
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The scripts of an environment name its folder: in a moved or copied one they would run the old
# folder's code. A setting TORCH other than the installed one needs another installation too.
INSTALLED_IN := $(shell test -x $(VENV)/bin/python && cat $(VENV)/ready 2>/dev/null)
ifneq "$(INSTALLED_IN)" "$(CURDIR)"
.PHONY: $(VENV)/ready
else ifneq "$(TORCH)" "$(INSTALLED_TORCH)"
.PHONY: $(VENV)/ready
endif

$(VENV)/ready: export PATH := $(USER_PATH)
$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -E -c $(SUPPORTED) 2>/dev/null || { \
	  echo "ERROR: Atelier needs CPython 3.11 to 3.14 (64 bits, not free-threaded), but $(PYTHON) is:" \
	    "$$($(PYTHON) -E --version 2>&1 | head -n 1); name another, as in: make repro PYTHON=python3.12"; \
	  exit 1; }
	@$(PYTHON) -E scripts/install.py --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"

$(DOCS_VENV)/ready: export PATH := $(USER_PATH)
$(DOCS_VENV)/ready: requirements-docs.lock
	$(PYTHON) -E -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements-docs.lock
	@touch $@
