# The environment lives in .venv and is made once; every target below makes it first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The version the project is tested with; any torch>=2.2 that is already in .venv is kept.
TORCH ?= torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo_output
export OMP_WAIT_POLICY ?= PASSIVE
.PHONY: help venv prerequisites demo test lint clean

help:
	@echo "make demo         run the main job on the embedded capture, print errors before and after refinement"
	@echo "make test         run the tests"
	@echo "make lint         check the style"
	@echo "make venv         only create the environment in $(VENV)"

venv: $(VENV)/.installed

prerequisites:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing. On Debian and Ubuntu: sudo apt-get install -y python3 python3-venv python3-pip" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; found $$($(PYTHON) --version). Choose another: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv or pip is missing. On Debian and Ubuntu: sudo apt-get install -y python3-venv python3-pip" >&2; exit 2; }

# Without an NVIDIA GPU the CPU build of torch comes first: the default build on PyPI brings gigabytes of CUDA libraries.
$(VENV)/.installed: pyproject.toml
	@$(MAKE) --no-print-directory prerequisites
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null && ! nvidia-smi >/dev/null 2>&1; then \
		index="--extra-index-url $(TORCH_CPU_INDEX)"; \
		$(BIN)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=5)' 2>/dev/null || { \
			echo "warning: $(TORCH_CPU_INDEX) cannot be reached; taking torch from the default index, which may be a larger CUDA build" >&2; \
			index=""; }; \
		$(BIN)/pip install -q $$index "$(TORCH)" || $(BIN)/pip install -q $$index "torch>=2.2"; \
	fi
	$(BIN)/pip install -q -e ".[dev]"
	@touch $@

# What some tests compare against, and what makes the assets.
$(VENV)/.extras: $(VENV)/.installed
	$(BIN)/pip install -q -e ".[dev,oracle,bake,capture]"
	@touch $@

demo: venv
	$(BIN)/avatarpose demo --out $(DEMO)

test: $(VENV)/.extras
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .

clean:
	rm -rf build dist *.egg-info $(DEMO)
