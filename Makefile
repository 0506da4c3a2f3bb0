# The environment lives in .venv and is made once; every target below makes it first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The version the project is tested with; any torch>=2.2 that is already in .venv is kept.
TORCH ?= torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo_output
# They ask for other versions of numpy, protobuf or OpenCV than are here, or for a CUDA build of torch.
WITHOUT_DEPENDENCIES := mediapipe==0.10.21 rtmlib segment-anything
PROGRAMS := chromium xvfb-run xdotool node npm
SYSTEM_PACKAGES := chromium xvfb xdotool nodejs npm libgl1 libegl1 libvulkan1 mesa-vulkan-drivers libusb-1.0-0 libidn2-0 libx11-6
export OMP_WAIT_POLICY ?= PASSIVE
.PHONY: help venv prerequisites demo test test-extras bench lint clean

help:
	@echo "make demo         run the main job on the embedded capture, print errors before and after refinement"
	@echo "make test         run the tests"
	@echo "make test-extras  the tests that need more: Open3D, Chromium, detectors, export formats (several GB)"
	@echo "make bench        where the time of a refinement goes, and how it grows"
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
	$(BIN)/pip install -q -e ".[dev,oracle,bake]"
	@touch $@

# What viewers, detectors, segmenters and exporters use.
$(VENV)/.all: $(VENV)/.extras
	$(BIN)/pip install -q -e ".[viewer,web,export,rtm,mediapipe,extras-tests]"
	$(BIN)/pip install -q --no-deps $(WITHOUT_DEPENDENCIES)
	@touch $@

demo: venv
	$(BIN)/avatarpose demo --out $(DEMO)

test: $(VENV)/.extras
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

test-extras: $(VENV)/.all
	@missing=""; for program in $(PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then echo "missing:$$missing. On Debian and Ubuntu: sudo apt-get install -y $(SYSTEM_PACKAGES)" >&2; exit 2; fi
	$(BIN)/python -m pytest -q tests/extras $(PYTEST_ARGS)

bench: venv
	$(BIN)/python -m benchmarks.floor
	$(BIN)/python -m benchmarks.growth --out growth.png

lint: venv
	$(BIN)/ruff check .

clean:
	rm -rf build dist *.egg-info $(DEMO)
