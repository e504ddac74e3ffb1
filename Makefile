# The developers' menu. `make` shows it.
PYTHON := .venv/bin/python
BENCHMARKS := ingest overhead resolve scaling
.DEFAULT_GOAL := help
.PHONY: help setup demo test torture bench bench-smoke check format

help: ## this menu
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what is missing: Debian packages, .venv
	@setup/bootstrap.sh

demo: setup ## the whole story on two lab hosts with a real guest
	@$(PYTHON) -m lab.demo

test: setup ## every test, a short torture among them
	@$(PYTHON) -m pytest

torture: setup ## try to break the journal for a quarter of an hour; SEED=N repeats a run
	@$(PYTHON) -m tests.torture $(if $(SEED),--seed $(SEED))

bench: setup ## every benchmark, with its peers and targets: half an hour on an idle machine
	@for name in $(BENCHMARKS); do $(PYTHON) -m bench $$name || exit 1; done

bench-smoke: setup ## short benchmarks; fails below the floors
	@for name in $(BENCHMARKS); do $(PYTHON) -m bench $$name --smoke || exit 1; done

check: setup ## lint, format, types, layers
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

format: setup ## put the code into its form
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format
