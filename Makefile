# Every target builds what it needs: a virtual environment in $(VENV) holding the package as
# an editable install, with the versions that constraints.txt pins. A change of pyproject.toml
# or constraints.txt installs anew; a change of the code needs no install.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV   ?= .venv
# Test processes: as many as there are cores, up to eight.
JOBS   ?= auto
# More arguments for pytest, e.g. make test ARGS="-k bounds -x".
ARGS   ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RELEASE := pyproject.toml constraints.txt

# Each test process gets one thread. The tests' tensors are small, so threads inside an
# operation only contend with the other processes, and sums come out in a fixed order.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST     := $(ONE_THREAD) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test arviz1 check lint types imports format bench clean

help:  ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Run the main job on real data
	$(BIN)/python -m pyro_dsvi.demo

test: $(VENV)/.dev  ## Run the tests and the docstrings' examples
	$(PYTEST) -n $(JOBS) --maxprocesses 8 $(ARGS)

arviz1: $(VENV)/.dev  ## Read an export under arviz 1, by Python 3.12 or newer, without torch
	$(ONE_THREAD) .ci/arviz_1 $(BIN)/python $(VENV)/arviz1

check:  ## Run all that CI runs: lint, types, imports, arviz1, tests
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory types
	$(MAKE) --no-print-directory imports
	$(MAKE) --no-print-directory arviz1
	$(MAKE) --no-print-directory test

lint: $(VENV)/.dev  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev  ## Check that imports point one way and change nothing
	$(PYTEST) -q tests/test_imports.py

format: $(VENV)/.dev  ## Put the code into format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.benchmarks  ## Measure what the performance claims rest on
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs. The stamp file is written last, so a broken install is made again.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo $(VENV)/.dev $(VENV)/.benchmarks: $(VENV)/.%: $(VENV)/.made $(RELEASE)
	$(PIP) -e '.[$*]'
	@touch $@
