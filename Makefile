# Two targets for everybody: `make study` and `make test`. Both make the environment first if it is
# missing, and reinstall only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV ?= .venv
# The index to take torch's CPU wheel from, for machines where the default one is a CUDA build.
TORCH_INDEX ?=
RESULTS ?= results
# Where `make test-lowest` makes its environment.
LOWEST ?= .venv-lowest

export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The index of torch is asked for torch alone: everything else comes from the usual place.
install = $(VENV)/bin/python -m pip install --quiet --quiet --constraint constraints.txt

.PHONY: study test test-lowest lint docs clean
.DELETE_ON_ERROR:

study: $(VENV)/.lab
	@$(VENV)/bin/thalweg study --out $(RESULTS)

# Two processes, each with whole files: what a file shares is made once.
test: $(VENV)/.dev
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile

# The trainers' warnings are many and of their time; thalweg's own still fail, by the tests' marks.
test-lowest:
	@$(MAKE) --no-print-directory VENV=$(LOWEST) $(LOWEST)/.lowest
	@$(LOWEST)/bin/python -m pytest -W ignore tests/integrations

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

# The pages of docs/ as a site, in site/. Strictly: a link that leads nowhere ends it (with --quiet
# it would not).
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "thalweg needs Python 3.11 or later; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "making the environment in $(VENV), once: the downloads may take minutes"
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "no environment: install Python's venv module (on Debian: python3-venv)" >&2; exit 1; }
	@echo "fetching torch: about 100 MB on macOS; on Linux 190 MB (CPU) or several GB (CUDA)"
	@$(install) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.lab: $(VENV)/.torch pyproject.toml
	@echo "fetching numpy, scipy, scikit-learn, plotly and a few small packages:" \
	    "75 MB, or what is missing of them"
	@$(install) --editable '.[lab]'
	@touch $@

# The oracles of thalweg.curvature ask for torchvision, whose wheels do not fit the CPU build of
# torch, and do without it: they come by themselves, after what else they need.
$(VENV)/.dev: $(VENV)/.lab
	@echo "fetching the tools for development and the trainers that SAM is tested in:" \
	    "60 MB, or what is missing of them"
	@$(install) --editable '.[lab,dev]'
	@$(install) --no-deps backpack-for-pytorch curvlinops-for-pytorch unfoldNd
	@touch $@

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	@$(install) --editable '.[docs]'
	@touch $@

# For each requirement with a lowest version, that one alone.
$(VENV)/.lowest: $(VENV)/.torch pyproject.toml
	@$(VENV)/bin/python -c 'import re, tomllib; \
	    extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	    wanted = {name for key in extras if key != "lab" for name in extras[key] if ">=" in name}; \
	    print(*sorted(re.sub(">=([^,]+).*", r"==\1", name) for name in wanted), sep="\n")' \
	    > $(VENV)/lowest.txt
	@$(install) --constraint $(VENV)/lowest.txt --editable '.[lab,dev]'
	@touch $@

clean:
	@rm -rf $(VENV) $(LOWEST) site
