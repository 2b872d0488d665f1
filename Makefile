# Every target sets itself up first: a Python of 3.11 or later is all that has to be there.
# PYTHON=/path/to/python picks another one than the first that is found.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -rs -n 2 --dist loadfile

# Training sets its own threads; a test's arithmetic on tiny arrays is slowed by more.
test test-slow test-all test-compose: export OMP_NUM_THREADS = 1

.PHONY: help demo real test test-slow test-all test-compose wheels dist lock sbom audit docs bench clean

help:
	@echo "make demo      three synthetic hospitals, a whole study, its table and page (relay-demo/)"
	@echo "make test      ruff, mypy and the quick tests: six minutes, on a slow machine twice that"
	@echo "make test-slow the tests marked slow: half an hour"
	@echo "make test-all  ruff, mypy and all tests but the containers: hours, for whole studies with many seeds are among them"
	@echo "make test-compose  three hospitals in containers, against a Docker engine"
	@echo "make real RELAY_DATA=DIR  the study of three real hospitals, whose data are not here (docs/how-to); some hours"
	@echo "make wheels    the packages that the containers' image is made of, into deploy/wheels/"
	@echo "make dist      the sdist and the wheel of the last commit, the same bytes for everybody, into dist/"
	@echo "make lock      requirements.lock and requirements-dev.lock, from pyproject.toml and constraints.txt"
	@echo "make sbom      a software bill of materials (CycloneDX) of .venv, into sbom.cdx.json"
	@echo "make audit     known advisories on the packages of the lock and on torch, asked of PyPI"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make bench     what the software costs: a study, a hop, a step, preprocessing; an hour and a half"
	@echo "make clean     remove .venv, caches, relay-demo/ and relay-apart/"

demo: .venv/ready
	RELAY_CALLED_AS="make demo" $(BIN)/relay demo

# A site file that is there already stays: a folder may lie elsewhere, or need a layout named.
WEIGHTS := tu-tf_efficientnet_lite0_imagenet.pth
real: .venv/ready
	@test -n "$(RELAY_DATA)" || { echo "Say where the data lie: make real RELAY_DATA=DIR, as in docs/how-to/three-real-hospitals.md." >&2; exit 1; }
	mkdir -p relay-real
	cp deploy/studies/real-three.toml "$(RELAY_DATA)/weights/$(WEIGHTS)" relay-real/
	for site in runmc bmc ucl; do test -e relay-real/$$site.toml || \
		printf 'name = "%s"\nimages = "%s"\npatient_scores = true\n' $$site "$(abspath $(RELAY_DATA))/hospitals/$$site" \
		> relay-real/$$site.toml; done
	RELAY_CALLED_AS="make real RELAY_DATA=$(RELAY_DATA)" $(BIN)/relay simulate relay-real/real-three.toml --out relay-real/results \
		--site runmc=relay-real/runmc.toml --site bmc=relay-real/bmc.toml --site ucl=relay-real/ucl.toml

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
deploy/wheels/.ready: requirements.lock constraints.txt .venv/ready
	$(BIN)/python -m pip wheel --quiet -c constraints.txt -w deploy/wheels torch torchvision
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes -r requirements.lock -d deploy/wheels
	touch $@

dist: .venv/ready
	rm -rf dist
	$(BIN)/python -m deploy.release dist

# Torch and what only torch asks for stay out of the locks: hospitals have builds of their own (for a CPU alone, for an
# older driver), whose files no registry knows. They are installed last, at the versions of constraints.txt: what they ask
# for besides is there by then, by its hash.
TORCH := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
	nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK := uv pip compile pyproject.toml -c constraints.txt --generate-hashes --universal --python-version 3.11 --system-certs \
	--quiet --no-header --no-annotate $(foreach name,$(TORCH),--no-emit-package $(name))

lock: .venv/ready
	$(BIN)/$(LOCK) -o requirements.lock
	$(BIN)/$(LOCK) --extra dev --extra dicom-seg -o requirements-dev.lock

sbom: .venv/ready .venv-supply/ready
	.venv-supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-format JSON --output-file sbom.cdx.json \
		$(BIN)/python

audit: .venv/ready
	$(BIN)/python -m deploy.advisories requirements.lock constraints.txt

# Apart from .venv, which they describe.
.venv-supply/ready:
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/python -m pip install --quiet 'cyclonedx-bom>=7,<8'
	touch $@

# NO_MKDOCS_2_WARNING: an advertisement of the theme's makers for their next program.
docs: .venv/ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site lies in site/. To read and search it: $(BIN)/mkdocs serve, and open the address that it prints."

bench: .venv/ready-dev
	$(BIN)/python -m tests.bench

.venv/ready: pyproject.toml constraints.txt requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later is found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON); once, and a few minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	touch $@

clean:
	rm -rf .venv .venv-supply build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis relay-demo relay-apart
	find . -name __pycache__ -prune -exec rm -rf {} +
