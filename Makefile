# Every target sets up what it needs: only Python 3.11 or newer, its pip, and make have to be there.

PYTHON ?= python3
VENV ?= .venv
PROGRAMS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(PROGRAMS)
WHEEL := $(VENV)-wheel/$(PROGRAMS)
CONSTRAINTS ?=
PYTEST := $(BIN)/python -m pytest --quiet
INSTALL := $(BIN)/python -m pip install --quiet $(CONSTRAINTS:%=--constraint %) --editable

# One stamp for each set of packages; pip runs again only when pyproject.toml has changed.
DEMO := $(VENV)/.has-demo
TEST := $(VENV)/.has-test
DEV := $(VENV)/.has-dev

.DEFAULT_GOAL := help
.NOTPARALLEL: # two pips in one environment get in each other's way
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of processes, each of which would compile the library anew
.PHONY: help demo test test-fast test-oldest docs lint types wheel release-check bench clean

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(DEMO) ## store four years of weather in an encrypted file, and ask it questions
	@$(BIN)/python examples/demo.py

test: $(TEST) ## run all tests
	@# What fails side by side is run once more, alone: servers that share two cores with all else miss a deadline now and
	@# then. It is printed both times, and what fails again has failed.
	@$(PYTEST) --numprocesses auto --dist worksteal || $(PYTEST) --last-failed --last-failed-no-failures none

test-fast: $(TEST) ## run the tests that need no server and take no time
	@$(PYTEST) --numprocesses auto --dist worksteal -m 'not server and not crash and not slow'

test-oldest: ## run all tests with the oldest version of everything that pyproject.toml allows
	@$(MAKE) --no-print-directory VENV=$(VENV)-oldest CONSTRAINTS=$(VENV)-oldest/oldest.txt test

docs: $(TEST) ## run the examples of README.md, docs/ and the docstrings
	@$(PYTEST) tests/docs src/rstore

lint: $(DEV) ## check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(DEV) ## check types, with mypy and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

wheel: $(DEV) ## build the wheel, and use it in an empty environment with core dependencies only
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist
	@$(PYTHON) -m venv --clear --without-pip $(VENV)-wheel
	@$(BIN)/python -m pip --python $(WHEEL)/python install --quiet dist/*.whl
	@$(WHEEL)/python -I .ci/use_wheel.py

release-check: wheel ## inspect the wheel and the sdist before a release, and use a backend beside the wheel
	@$(BIN)/python .ci/check_release.py
	@$(BIN)/python -m pip --python $(WHEEL)/python install --quiet ./examples/folder_backend
	@$(WHEEL)/python -I .ci/use_backend.py

bench: $(TEST) ## measure, and compare with other libraries
	@$(BIN)/python benchmarks/run.py

clean: ## remove everything that make has made
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-wheel dist demo-output benchmarks/.cache .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(DEMO): pyproject.toml | $(VENV)/.made
	@echo "Installing rstore and what the demo needs into $(VENV) ..."
	@$(INSTALL) '.[demo]'
	@touch $@

$(TEST): pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	@echo "Installing rstore and what its tests need into $(VENV) ..."
	@$(INSTALL) . --group test
	@touch $@

$(DEV): pyproject.toml | $(VENV)/.made
	@echo "Installing rstore and the tools of its developers into $(VENV) ..."
	@$(INSTALL) . --group dev
	@touch $@ $(TEST)

$(VENV)/oldest.txt: pyproject.toml .ci/oldest.py | $(VENV)/.made
	@$(BIN)/python .ci/oldest.py >$@

# `venv --without-pip`, because Debian ships ensurepip apart from Python; a pip of our own, because --group needs 25.1.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)'. Name your Python: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rstore needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "If there is a newer one, name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import pip' 2>/dev/null || $(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no pip. On Debian and Ubuntu: apt install python3-pip"; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv --clear --without-pip $(VENV)
	@if $(PYTHON) -c 'import pip' 2>/dev/null; \
	then $(PYTHON) -m pip --python $(BIN)/python install --quiet 'pip>=25.1'; \
	else $(BIN)/python -m ensurepip >/dev/null && $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'; fi
	@touch $@
