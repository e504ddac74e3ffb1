# The developers' menu. `make` shows it.
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format

help: ## this menu
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: Debian packages, .venv
	@setup/bootstrap.sh

demo: setup ## the whole story on two lab hosts with a real guest
	@$(PYTHON) -m lab.demo

test: setup ## every test
	@$(PYTHON) -m pytest

check: setup ## lint, format, types, layers
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

format: setup ## put the code into its form
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format
