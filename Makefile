# The project's one task runner. A fresh machine needs Python >= 3.11 with pip and venv, git and make; nothing else.
PYTHON ?= python3
UV     := .uv/bin/uv
ENV    := UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=.venv
SYNC   := $(ENV) $(UV) sync --frozen --quiet --python $(PYTHON)
RUN    := $(ENV) $(UV) run --frozen --no-sync
PORT   ?= 8000

.PHONY: help run test check bench docs clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

$(UV):
	@echo "Installing uv into .uv ..."
	@$(PYTHON) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.8'

run: $(UV) ## serve the café on http://127.0.0.1:8000 (SQLite; DATABASE_URL for another database)
	@$(SYNC) --no-default-groups --group cafe --extra all
	$(RUN) uvicorn examples.cafe.main:app --host 127.0.0.1 --port $(PORT)

test: $(UV) ## run the tests on SQLite and on a real PostgreSQL
	@$(SYNC) --extra all
	$(RUN) pytest $(or $(ARGS),-n 2)

check: $(UV) ## lint, format check, types
	@$(SYNC) --extra all
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pyright

bench: $(UV) ## measure against other libraries, write the page and draw the charts
	@$(SYNC) --extra all --group bench
	$(RUN) python -m bench $(ARGS)

docs: $(UV) ## build the documentation into site/
	@$(SYNC) --extra all
	$(RUN) zensical build --strict

clean: ## remove what the targets above made
	rm -rf .uv .venv site dist .pytest_cache .mypy_cache .ruff_cache
