# The project's commands. `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test check format lint types layering clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	rm -rf runs/make-demo
	$(BIN)/motley train recipes/demo.toml --cluster clusters/demo.toml --run runs/make-demo
	$(BIN)/motley report runs/make-demo
	$(BIN)/motley sample runs/make-demo --prompt "def read_"

test: $(READY)
	$(BIN)/python -m pytest

check: lint types layering test

format: $(READY)
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

lint: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: $(READY)
	$(BIN)/mypy

layering: $(READY)
	$(BIN)/python -m pytest -q tests/unit/test_layering.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
