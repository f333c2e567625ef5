# `make setup` once, then `make sweep`. Everything runs from .venv; nothing else is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup sweep check test soak coverage bench gallery clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/'

setup: $(STAMP) ## .venv with every runtime and the development tools

# torch comes first and pinned: with it in place the other packages' ranges are satisfied, and no
# larger build is taken in passing.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,dev]"
	touch $@

sweep: setup ## the built-in model on every runtime found here
	$(BIN)/hwbench sweep

check: setup ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two test workers whose maths libraries each take every core would wait for one another.
test coverage: export OMP_NUM_THREADS := 1

# One module per worker at a time, so that module fixtures (built artifacts) are built once.
test: setup ## the test suite, minutes
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

soak: setup ## the tests that take long
	$(BIN)/python -m pytest -m slow

coverage: setup ## line and branch coverage, worker processes included
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" --cov --cov-report=term

bench: setup ## speed as ratios, measured side by side in one run
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
		echo "== $$script"; PYTHONPATH=. $(BIN)/python "$$script"; done

gallery: setup ## the reports and pictures of docs/gallery, a quarter of an hour
	PYTHONPATH=. $(BIN)/python docs/gallery/make.py

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
