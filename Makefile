# Everything that Paretoscope needs is one command away: Python 3.11 or newer, make and a package index are enough.
# The environment is made by .setup/environment.py, in .venv, when it is missing or requirements*.txt have changed.

PYTHON = $(or $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; done),$(error \
	Paretoscope needs Python 3.11 or newer and found none; install one and run make again))
VENV_PYTHON = .venv/bin/python
# Arguments for pytest, and the dashboard's port: make test ARGS="tests/core -x", make dashboard PORT=8600
ARGS =
PORT =

.PHONY: help dashboard test benchmark lint clean environment test-environment

help:
	@echo "make dashboard   open Paretoscope in the browser; the first time this downloads what it needs and says how much"
	@echo "make test        run every test: the engine, the pages and a real browser"
	@echo "make benchmark   measure speed and size against the project's own limits; leave the machine alone meanwhile"
	@echo "make lint        check style and the rules of who may import whom"
	@echo "make clean       remove .venv and every cache (never your runs or checkpoints)"

dashboard: environment
	@$(VENV_PYTHON) -m streamlit run dashboard.py $(if $(PORT),--server.port $(PORT))

test: test-environment
	@$(VENV_PYTHON) tests/browser.py
	@$(VENV_PYTHON) tests/run.py $(ARGS)

benchmark: test-environment
	@$(VENV_PYTHON) tests/browser.py
	@$(VENV_PYTHON) -m pytest -m benchmark --timeout 0 -s tests/benchmarks $(ARGS)

lint: test-environment
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

environment:
	@$(PYTHON) .setup/environment.py

test-environment:
	@$(PYTHON) .setup/environment.py --tests

clean:
	@rm -rf .venv .pytest_cache .hypothesis .ruff_cache .import_linter_cache .grimp_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
