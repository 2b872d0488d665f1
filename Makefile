# Every target sets itself up first: a Python of 3.11 or later is all that has to be there.
# PYTHON=/path/to/python picks another one than the first that is found.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -rs -n 2 --dist loadfile

# Training sets its own threads; a test's arithmetic on tiny arrays is slowed by more.
test test-slow test-all test-compose: export OMP_NUM_THREADS = 1

.PHONY: help demo test test-slow test-all test-compose wheels bench clean

help:
	@echo "make demo      three synthetic hospitals, a whole study, its table and page (relay-demo/)"
	@echo "make test      ruff, mypy and the quick tests: ten minutes, on a slow machine more"
	@echo "make test-slow the tests marked slow: about twice as long"
	@echo "make test-all  ruff, mypy and all tests but the containers: hours, for whole studies with many seeds are among them"
	@echo "make test-compose  three hospitals in containers, against a Docker engine"
	@echo "make wheels    the packages that the containers' image is made of, into deploy/wheels/"
	@echo "make bench     what the software costs: a study, a hop, a step, preprocessing; an hour and a half"
	@echo "make clean     remove .venv, caches, relay-demo/ and relay-apart/"

demo: .venv/ready
	RELAY_CALLED_AS="make demo" $(BIN)/relay demo

test: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not nightly and not compose"

test-slow: .venv/ready-dev
	$(PYTEST) -m "slow and not nightly and not compose"

test-all: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not compose"

test-compose: .venv/ready-dev deploy/wheels/.ready
	$(BIN)/python -m pytest -rs -n 0 tests/compose

wheels: deploy/wheels/.ready

# What pip finds here, so that the image is built of the same packages and without the registry.
deploy/wheels/.ready: pyproject.toml constraints.txt .venv/ready
	$(BIN)/python -m pip wheel --quiet -c constraints.txt -w deploy/wheels torch torchvision 'setuptools>=77' .
	rm -f deploy/wheels/prostate_relay-*.whl
	touch $@

bench: .venv/ready-dev
	$(BIN)/python -m tests.bench

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later is found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON); once, and a few minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis relay-demo relay-apart
	find . -name __pycache__ -prune -exec rm -rf {} +
