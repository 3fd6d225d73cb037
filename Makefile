# Every target sets up what it needs in .venv. Only Python >= 3.11 and make are expected.
# pip's settings are respected: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes PyTorch without CUDA on Linux.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
OUT ?= runs/demo
# A file's tests run in one process, for a page's blocks share a namespace and processes have a Ray each.
WORKERS ?= 2
# Each part under an hour on two cores.
GROUP ?= all
TEAMS := tests/rllib/test_qmix*.py tests/rllib/test_team*.py
SLOW_all := tests
SLOW_core := tests/core
SLOW_sb3 := tests/sb3
SLOW_rllib := tests/rllib $(addprefix --ignore-glob=*/,$(notdir $(TEAMS)))
SLOW_teams := $(TEAMS)
SLOW_study := tests/study

.DEFAULT_GOAL := help
.PHONY: help demo test remote slow browser bare compat lint docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.installed ## Train PPO on CartPole with four rules, then show a table and a page of curves
	$(BIN)/rl-agg compare examples/studies/demo.yaml --out $(OUT)
	@echo "Open $(OUT)/report.html in a browser."

test: $(VENV)/.installed-dev ## Run the test suite
	$(PYTEST) --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=15

remote: $(VENV)/.installed-dev ## Run the tests of learners, env runners and workers in processes of their own, which CI runs too
	$(PYTEST) -m 'remote and not slow' --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=15

slow: $(VENV)/.installed-dev ## Run the tests that take longer than 20 seconds each, or a part: GROUP=core, sb3, rllib, teams or study
	$(if $(SLOW_$(GROUP)),,$(error unknown GROUP=$(GROUP): choose from all core sb3 rllib teams study))
	$(PYTEST) -m slow --durations=15 $(SLOW_$(GROUP))

browser: $(VENV)/.installed-dev ## Open a study's page in Chromium, which must be installed with its driver
	$(PYTEST) -m browser tests/study

bare: $(VENV)/.installed-dev ## Install the core and each framework's extra alone into fresh environments, and look
	$(PYTEST) -m slow tests/core/test_imports.py

compat: ## Run a part of the tests in fresh environments with other versions, and show a table
	$(PYTHON) tests/compat/matrix.py

lint: $(VENV)/.installed-dev ## Check format, style, prose, imports between packages and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell *.md docs examples benchmarks/*.md benchmarks/replication
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "Open docs/_build/html/index.html in a browser."

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT

# Checked first of all, so that what is wrong is one line and not pip's.
$(VENV)/.python:
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) not found: rl-agg needs Python >= 3.11; try make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rl-agg needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1' # the first to read dependency groups
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing rl-agg and its pinned dependencies into $(VENV): 1 to 3 minutes the first time, longer on a slow line ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing rl-agg, all extras and the development tools into $(VENV): 1 to 3 minutes the first time ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --group dev --group docs --editable '.[all,torchjd,zoo,marl,envpool]'
	@touch $(VENV)/.installed $@
