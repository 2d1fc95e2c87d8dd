# `make demo` and `make test` do all the set-up they need: Python >= 3.11 and make are enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo   set up .venv, then segment an embedded phantom cohort with the embedded ensemble"
	@echo "make test   set up .venv, then run the test suite"
	@echo "make lint   ruff and mypy"
	@echo "make format apply ruff's formatting"
	@echo "make bench  set up .venv, then the short form of the benchmarks, in under 20 minutes on two cores"
	@echo "make clean  remove .venv, caches and the demo's output"

$(STAMP): pyproject.toml constraints.txt
	@echo "==> [1/2] virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "goat-ray needs Python >= 3.11; run: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "==> [2/2] installing goat-ray and its dependencies (about 3 GB, a few minutes the first time)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@echo "==> demo: a phantom cohort through all seven embedded members, on this machine's CPU"
	@$(VENV)/bin/goat-ray demo --out demo-run --overwrite

test: $(STAMP)
	@echo "==> test suite"
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	@echo "==> ruff, mypy"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: $(STAMP)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(STAMP)
	@echo "==> benchmarks, short forms; benchmarks/README.md tells of the long ones"
	@for short in "cpu_cost --quick" "postprocess_speed --quick" "cohort_flow --quick" "cpu_modes --quick" \
	  "growth --quick" "scale --quick" "gpu_predictor --tiny"; do \
	  echo "==> $$short"; $(VENV)/bin/python -m benchmarks.$$short || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache demo-run
