# `make help` lists the targets. Each works in a bare clone.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help venv test lint explore docs format bench demo clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(INSTALLED)  ## make the virtual environment, with the tested versions

# The stamp is written last, so an interrupted installation starts again.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

test: lint  ## run all checks except the slow tests and the benchmarks
	@echo '== pytest'
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

explore: $(INSTALLED)  ## run the property tests on fresh examples; SEED=N repeats a run
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "== pytest, fresh examples (to repeat: make explore SEED=$$seed)"; \
	$(BIN)/python -m pytest -m 'hypothesis and not slow' \
		--hypothesis-profile=explore --hypothesis-seed=$$seed

lint: $(INSTALLED)  ## check formatting, rules, types and import contracts
	@echo '== ruff format'
	$(BIN)/ruff format --check .
	@echo '== ruff check'
	$(BIN)/ruff check .
	@echo '== mypy'
	$(BIN)/mypy
	@echo '== lint-imports'
	$(BIN)/lint-imports
	@echo '== pre-commit'
	$(BIN)/pre-commit validate-config

docs: $(INSTALLED)  ## build the documentation in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(INSTALLED)  ## format the code and apply the fixes of ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## measure speed as ratios on this machine
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=min,median,rounds

demo: $(INSTALLED)  ## ingest, train, reproduce the notes and write a report
	$(BIN)/python -P -m flows.demo

clean:  ## remove build products and caches; keep runs and data
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
