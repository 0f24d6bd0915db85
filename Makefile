PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL := $(RUN)/python -m pip install --quiet --constraint constraints.txt --editable
ARGS ?=
# One worker per core. A worker that has run all its tests takes some from another.
WORKERS := --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo quick test lint typecheck docs bench parity gpu

help:  ## this list; what is needed less often are scripts in tools/
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml setup.py constraints.txt fastadv/_version.py $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*.inl)
	@echo 'Installs what constraints.txt pins and builds the extension, in about two minutes.'
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[test,lint]'
	touch $@

setup: $(STAMP)  ## create .venv and install what was tested, with the extension built

demo: setup  ## the library's main job on real images, in under two minutes
	$(RUN)/fastadv demo

# pytest stores the tests as it has rewritten them; without, that takes seconds of each worker, each time
quick test: export PYTHONDONTWRITEBYTECODE :=
quick: setup  ## the tests of the daily loop: those that take less than a thirtieth of a second each
	$(RUN)/python -m pytest $(WORKERS) -m 'not slow' $(ARGS)

test: setup  ## the whole suite but for what pages show, which runs in `make docs`; ARGS=--changed runs what a change reaches
	$(RUN)/python -m pytest $(WORKERS) -m 'not docs' $(ARGS)

lint: setup  ## ruff and clang-format, without changing anything
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/kernels/*.inl

typecheck: setup  ## mypy --strict on fastadv/ and papers/
	$(RUN)/mypy

SPHINX = $(RUN)/python -m sphinx --fail-on-warning --nitpicky --keep-going --quiet --doctree-dir build/doctrees
$(STAMP)-docs: $(STAMP)
	$(INSTALL) '.[docs]'
	touch $@

docs: $(STAMP)-docs  ## the documentation site, in build/site/index.html: warnings are errors, its examples run; about six minutes on two cores
	$(SPHINX) --builder html docs build/site
	$(SPHINX) --builder doctest docs build/doctest
	$(RUN)/python -m pytest $(WORKERS) -m docs tests

# two packages by themselves: torchattacks asks for a requests of 2021, and visdom, of adv-lib, builds with old tools
$(STAMP)-bench: $(STAMP)
	PIP_CONSTRAINT=bench/build.txt PIP_BUILD_CONSTRAINT=bench/build.txt $(RUN)/python -m pip install --quiet --no-deps visdom==0.2.4
	$(INSTALL) '.[bench]'
	$(RUN)/python -m pip install --quiet --no-deps torchattacks==3.5.1
	touch $@

bench: $(STAMP)-bench  ## speed against eager PyTorch and the peers, appended to bench/results/ and shown in README; ARGS="--only attacks"
	$(RUN)/python bench/run.py $(ARGS)
	$(RUN)/python -m bench.page

parity: $(STAMP)-bench  ## every attack beside the best others, filling docs/parity.md; ARGS="--only fmn --net linf l2 --again ours"
	$(RUN)/python -m pytest -q tests/parity/wall.py
	$(RUN)/python -m bench.suite.parity $(ARGS)
	$(RUN)/python -m bench.suite.wall

# a GPU machine may have no network: the Python that is there, without set-up
gpu:  ## check and measure on this machine's GPU; ARGS="ops --out DIR --budget 500"
	$(or $(wildcard $(RUN)/python),$(PYTHON)) -m bench.gpu $(ARGS)
