# Every target sets up what it needs in .venv. Only Python >= 3.11 and make are expected.
# pip's settings are respected: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes PyTorch without CUDA on Linux.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.installed ## Train PPO on CartPole with four rules, then show a table and a page of curves
	$(BIN)/rl-agg compare examples/studies/demo.yaml --out $(OUT)
	@echo "Open $(OUT)/report.html in a browser."

test: $(VENV)/.installed-dev ## Run the test suite
	$(BIN)/python -m pytest -q

slow: $(VENV)/.installed-dev ## Run the tests that take longer than 20 seconds each
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed-dev ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rl-agg needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing rl-agg and its pinned dependencies into $(VENV) (a minute or two, longer on a slow line) ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools ..."
	@$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable '.[all,torchjd]'
	@touch $@
