# `make demo` and `make test` set themselves up: they make the environment, or reuse it.
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do $$p -c "$(SUPPORTED)" 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.repairops-$(shell cat pyproject.toml | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install demo wheel test test-numeric test-long test-slow lint types docs docs-serve clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: $(READY)  ## Make the environment, or reuse it.

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	@rm -f $(VENV)/.repairops-*
	@touch $(READY)

demo: install  ## The whole story on real images, in a folder of its own.
	$(BIN)/repairops demo

wheel: install  ## The demo from the wheel alone, in an empty folder, beside the packages that are installed already.
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$folder" . && \
	$(BIN)/python -m venv --without-pip "$$folder/venv" && \
	site=$$("$$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$$site/packages.pth" && \
	$(BIN)/python -m pip --python "$$folder/venv/bin/python" install --quiet --disable-pip-version-check \
	  --no-deps --ignore-installed "$$folder"/repairops-*.whl && \
	mkdir "$$folder/empty" && cd "$$folder/empty" && PATH="$$folder/venv/bin:$$PATH" repairops demo

test: install  ## The default tests.
	$(BIN)/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS)

test-numeric: install  ## Those that hang on rounding again, as older processors round.
	$(BIN)/python tests/processors.py $(PYTEST_ARGS)

test-long: install  ## Further whole jobs and processes.
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not slow" $(PYTEST_ARGS)

test-slow: install  ## All tests, those that take minutes each too.
	$(BIN)/python -m pytest -m "slow or not slow" $(PYTEST_ARGS)

lint: install  ## Style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Types.
	$(BIN)/mypy

docs: install  ## Build the documentation into site/, strictly.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: install  ## Read the documentation while you write it.
	$(BIN)/mkdocs serve

clean:  ## Remove what the other targets made, the environment too.
	rm -rf $(VENV) site demo-out .pytest_cache .mypy_cache .ruff_cache
