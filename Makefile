# Needs only make and Python >= 3.10; every target sets up what it needs in .venv and is quick when that is done.
PYTHON ?= python3
BIN := .venv/bin
# -qq: errors only. constraints.txt pins torch, too: an open range would take the newest build, on Linux with gigabytes
# of CUDA packages, also where a CPU build of the pinned version is at hand.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test guard check docs format venv constraints clean
.DELETE_ON_ERROR:

quickstart: .venv/runtime ## watch a model learn to learn: train, compare, adapt from files, predict
	@$(BIN)/kshot quickstart

test: .venv/dev ## all tests, and the examples of docstrings, README and docs
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=20 --durations-min=5

check: .venv/dev ## style, types, layers, documentation
	$(BIN)/ruff check -q
	$(BIN)/ruff format -q --check
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo > .venv/layers.txt || { cat .venv/layers.txt; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

guard: .venv/dev ## speed: ratios to peers in one run; fails where less than half of what is asked is left
	@$(BIN)/kshot bench sinusoid-1 sinusoid-5 prototypes-1s anil-head-1s sampling evaluation-1000 --rounds 5 --seconds 0.4 --require 0.5

docs: .venv/dev ## the documentation, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict
	@echo "open site/index.html"

format: .venv/dev ## put the code into shape
	@$(BIN)/ruff check -q --fix
	@$(BIN)/ruff format -q

venv: .venv/dev ## only the set-up

constraints: .venv/dev ## pin what is installed now
	@$(BIN)/python tools/constraints.py > .venv/constraints.txt && cp .venv/constraints.txt constraints.txt

clean: ## back to a fresh clone; runs/ stays
	rm -rf .venv site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: remade when what they were made from changes. kshot itself is installed editable, so its code is no input.
.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "kshot needs Python >= 3.10, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Say: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up .venv (some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/runtime: .venv/python pyproject.toml constraints.txt
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/runtime
	@$(INSTALL) --no-build-isolation -e '.[dev,docs,track,serve,bench,sweep]'
	@touch $@
