# make r1-zero     R1-Zero from scratch: a virtual environment, the package, a base model, its training
# make test        lint, types and tests, on Python 3.11 and 3.12 if both are installed
# make notebooks   executes the notebooks with small settings; results in build/notebooks
# make docs        documentation and API reference, in build/docs; a warning is an error
# make clean       removes what the others have made, except runs/
# Settings:
# PYTHON=python3.12        the interpreter, 3.11 or newer
# EXTRAS=dev,cuda13        optional dependencies: cuda (CUDA 12), cuda13, tpu
# ARGS="--seed 3"          options of the experiment
# SIZE=full                executes the notebooks in full and replaces their outputs in notebooks/

PYTHON ?= python3
EXTRAS ?= dev
ARGS ?=
SIZE ?= quick

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(EXTRAS)

.PHONY: help r1-zero test lint pytest pytest-other notebooks docs clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

r1-zero: $(INSTALLED)
	$(BIN)/python experiments/r1_zero.py $(ARGS)

# The suite of PYTHON comes last, so that the output ends with its closing line.
test: lint
	@$(MAKE) --no-print-directory pytest-other
	@$(MAKE) --no-print-directory pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Compiled programs, small ones too, are shared by the workers, the processes that tests start, and later runs.
pytest notebooks: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/$(VENV)/compiled
pytest notebooks: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
pytest: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

pytest-other: $(INSTALLED)
	@$(find_other); \
	if [ -n "$$other" ]; then \
		$(MAKE) --no-print-directory pytest PYTHON="$$other" VENV=.venv-$$version; \
	else \
		echo "tests run on Python $$own only: no other of 3.11 and 3.12 was found"; \
	fi

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/run.py --size $(SIZE)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Sets own to the version of VENV, and other to an interpreter of another version that can make an environment: from
# PATH, where a name may be a pyenv shim that refuses to start, or from the versions that pyenv has.
define find_other
own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); other=; \
for version in 3.12 3.11; do \
	[ $$version != $$own ] || continue; \
	pyenv=$$(pyenv versions --bare 2>/dev/null | grep "^$$version\." | tail -n 1); \
	for python in python$$version "$$(pyenv prefix "$$pyenv" 2>/dev/null)/bin/python"; do \
		if "$$python" -c 'import sys, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' \
			$$version 2>/dev/null; then other=$$python; break 2; fi; \
	done; \
done
endef

# Installs the package with the extras that the name ends with, if they or the dependencies have changed.
$(VENV)/installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "PYTHON=$(PYTHON) is not Python 3.11 or newer: name another, for example make PYTHON=python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@set -e; \
	if command -v uv >/dev/null; then \
		[ -x $(BIN)/python ] || uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
		uv pip install --quiet --python $(BIN)/python --editable '.[$*]'; \
	else \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[$*]'; \
	fi
	@touch $@

clean:
	rm -rf .venv .venv-* .ruff_cache build dist *.egg-info
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -not -path './runs/*' -prune -exec rm -rf {} +
