# `make help` lists the targets. Each does all of its own set-up from a bare clone.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help venv test lint explore format bench demo clean

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(INSTALLED)  ## a virtual environment with the tested versions of everything

# The stamp is written last, so an installation that broke off is begun again.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test]'
	@touch $@

test: lint  ## everything that must hold, except minutes-long tests and benchmarks
	@echo '== pytest'
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

explore: $(INSTALLED)  ## the property tests on fresh examples; SEED=N repeats a run
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "== pytest, fresh examples (to repeat: make explore SEED=$$seed)"; \
	$(BIN)/python -m pytest -m 'hypothesis and not slow' \
		--hypothesis-profile=explore --hypothesis-seed=$$seed

lint: $(INSTALLED)  ## formatting, rules, types and who may import whom
	@echo '== ruff format'
	$(BIN)/ruff format --check .
	@echo '== ruff check'
	$(BIN)/ruff check .
	@echo '== mypy'
	$(BIN)/mypy
	@echo '== lint-imports'
	$(BIN)/lint-imports

format: $(INSTALLED)  ## format the code, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## measure speed, as ratios on this machine
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=min,median,rounds

demo: $(INSTALLED)  ## train, reproduce the notes, and write a page of it
	$(BIN)/python -P -m flows.demo

clean:  ## remove what make and the tools made; runs and data stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
