# Everything runs in the virtual environment .venv, which the first target you call sets up.
#   make train   trains a student-friendly teacher on handwritten digits and distils a student from it
#   make test    runs the tests
#   make compare compares methods and teachers on the digits, in minutes
PYTHON ?= python3
ARGS ?=
BENCHMARKS := distill_loss crd methods data training_step
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints-dev.txt
# Waiting threads sleep instead of spinning: on a busy machine the spinning ones take the time of those that work.
# Tests get one thread a worker besides.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

.PHONY: help train compare test slow lint format gpu bench clean

help:
	@echo "make train [ARGS=…] | compare [ARGS=…] | test [ARGS=…] | slow | lint | format | gpu | bench | clean"

train: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m fastkd.train $(ARGS)

compare: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m fastkd.compare $(ARGS)

test: .venv/installed
	$(TEST) -n auto $(ARGS)

slow: .venv/installed
	$(TEST) -n auto -m "slow and not gpu" $(ARGS)

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
