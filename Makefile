# Two targets for everybody: `make study` and `make test`. Both make the environment first if it is
# missing, and reinstall only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV ?= .venv
# The index to take torch's CPU wheel from, for machines where the default one is a CUDA build.
TORCH_INDEX ?=
RESULTS ?= results

export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The index of torch is asked for torch alone: everything else comes from the usual place.
install = $(VENV)/bin/python -m pip install --quiet --quiet --constraint constraints.txt

.PHONY: study test lint clean
.DELETE_ON_ERROR:

study: $(VENV)/.lab
	@$(VENV)/bin/thalweg study --out $(RESULTS)

test: $(VENV)/.dev
	@$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "thalweg needs Python 3.11 or later; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "making the environment in $(VENV): downloads torch first, once (see README)"
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "no environment: install Python's venv module (on Debian: python3-venv)" >&2; exit 1; }
	@$(install) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.lab: $(VENV)/.torch pyproject.toml
	@$(install) --editable '.[lab]'
	@touch $@

$(VENV)/.dev: $(VENV)/.lab
	@$(install) --editable '.[lab,dev]'
	@touch $@

clean:
	@rm -rf $(VENV)
