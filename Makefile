PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One worker per core. A worker that has run all its tests takes some from another.
WORKERS := --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo docs quick test bottle explore zoo axe mutate lint format typecheck bench parity gpu wheels matrix clean sanitize dist releasable

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml setup.py constraints.txt fastadv/_version.py $(wildcard csrc/*.cpp csrc/*.h csrc/kernels/*.inl)
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

setup: $(STAMP)  ## create .venv and install what was tested, with the extension built

demo: setup  ## the library's main job on real images, in under two minutes
	$(RUN)/fastadv demo

# pytest stores the tests as it has rewritten them; without, that takes seconds of each worker, each time
quick test bottle: export PYTHONDONTWRITEBYTECODE :=
quick: setup  ## the tests of the daily loop: those that take less than a thirtieth of a second each
	$(RUN)/python -m pytest $(WORKERS) -m 'not slow'

test: setup  ## the whole suite
	$(RUN)/python -m pytest $(WORKERS)

bottle: SEED ?= 1
bottle: setup  ## the whole suite as on another machine, whose sums are rounded otherwise; SEED=... draws which
	$(RUN)/python -m pytest $(WORKERS) --other-machine $(SEED)

explore: SEED := $(or $(SEED),$(shell date +%s))
explore: setup  ## the property tests on fresh random examples; SEED=... repeats a run
	@echo "SEED=$(SEED)"
	$(RUN)/python -m pytest $(WORKERS) -m hypothesis --hypothesis-profile explore --hypothesis-seed $(SEED)

zoo: setup  ## the tests over foreign architectures, with the models of timm and Hugging Face, which `make test` skips
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[zoo]'
	$(RUN)/python -m pytest $(WORKERS) tests/zoo

axe:  ## axe-core, by which the tests judge reports in Chromium, from npm; without it they skip that
	npm install --silent --no-save --prefix build/axe axe-core@4.14.1

mutate: N ?= 200
mutate: SEED ?= 0
mutate: setup  ## plant N mistakes, drawn by SEED, in PATHS and see which ones the tests notice
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutate]'
	$(RUN)/python tests/mutation/run.py --count $(N) --seed $(SEED) $(if $(AGAIN),--again) $(PATHS)

lint: setup  ## ruff and clang-format, without changing anything
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/kernels/*.inl

format: setup  ## let ruff and clang-format rewrite the files
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/clang-format -i csrc/*.cpp csrc/*.h csrc/kernels/*.inl

typecheck: setup  ## mypy --strict on fastadv/
	$(RUN)/mypy

bench: ARGS ?=
bench: setup  ## speed against eager PyTorch and the peers, appended to bench/results/ and shown in README; ARGS="--base REF"
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(RUN)/python bench/run.py $(ARGS)
	$(RUN)/python -m bench.page

parity: ARGS ?=
parity: setup  ## every attack beside the best others, filling docs/parity.md; ONLY=fmn NET="linf l2" AGAIN=ours, ARGS="--data-dir DIR"
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(RUN)/python -m bench.suite.parity $(if $(ONLY),--only $(ONLY)) $(if $(NET),--net $(NET)) $(if $(AGAIN),--again $(AGAIN)) $(ARGS)
	$(RUN)/python -m bench.suite.wall

SPHINX = $(RUN)/python -m sphinx --fail-on-warning --nitpicky --keep-going --quiet --doctree-dir build/doctrees
$(STAMP)-docs: $(STAMP)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(STAMP)-docs  ## the documentation site, in build/site/index.html: warnings are errors, its examples run
	$(SPHINX) --builder html docs build/site
	$(SPHINX) --builder doctest docs build/doctest

# a GPU machine may have no network: the Python that is there, without set-up
gpu: ARGS ?=
gpu:  ## check and measure on this machine's GPU: STAGE=ops for one stage, ARGS="--out DIR --budget 500"
	$(or $(wildcard $(RUN)/python),$(PYTHON)) -m bench.gpu $(STAGE) $(ARGS)

dist: setup  ## the source distribution and, by cibuildwheel, the wheels of a release: on Linux in Docker
	$(RUN)/python -m pip install --quiet build cibuildwheel
	$(RUN)/python -m build --sdist --outdir dist
	$(RUN)/python -m cibuildwheel --output-dir dist

releasable:  ## what a release under TAG=v0.1.0 still lacks
	$(PYTHON) .ci/releasable.py $(TAG)

matrix: ARGS ?=
matrix: setup  ## the quick tests under the oldest, a middle and the newest PyTorch, some GB; ARGS="--whole --page 2.6.0"
	$(RUN)/python tests/packaging/matrix.py $(ARGS)

wheels: ARGS ?=
wheels:  ## a wheel for each Python of this machine, from the source distribution, audited and tried; ARGS="--page"
	$(or $(wildcard $(RUN)/python),$(PYTHON)) tests/packaging/wheels.py $(ARGS)

clean:  ## remove what was built, keeping results
	rm -rf $(VENV) build dist *.egg-info fastadv/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis

SANITIZE := $(CURDIR)/build/sanitize
SANITIZERS := -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined

sanitize: setup  ## the C++ kernels under the address and undefined-behaviour sanitizers, through every op test
	$(RUN)/python -m pip install --quiet --upgrade --target $(SANITIZE)/tools 'pybind11>=2.13' 'setuptools>=77'
	PYTHONPATH=$(SANITIZE)/tools CFLAGS="$(SANITIZERS) -O1 -g -fno-omit-frame-pointer -Werror" LDFLAGS="$(SANITIZERS)" \
		$(RUN)/python setup.py --quiet build --build-base $(SANITIZE) --build-lib $(SANITIZE)/lib
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZE)/lib \
		$(RUN)/python -m pytest tests/ops --ignore-glob='*test_triton*' --ignore-glob='*test_loadable*'
