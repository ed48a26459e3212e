# Needs Python 3.11, 3.12 or 3.13 and make; everything else comes from requirements.lock.
# CI runs the same targets (.ci/run).

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
ARGS ?=

export MQ9_PORT MQ9_HTTP_PORT

.PHONY: help venv dev test check sim sim-coverage chaos chaos-full bench proto fmt lock clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

venv: $(INSTALLED)  ## make .venv from requirements.lock, if it is missing or stale

# The first interpreter that runs, is of a supported version and can make virtual environments. Anew for every new lock,
# so that nothing stays that the lock does not name.
$(LOCKED): requirements.lock
	@python=; for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if $$candidate -c 'import sys, ensurepip, sqlite3, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	    >/dev/null 2>&1; then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make venv: no Python 3.11, 3.12 or 3.13 with venv found (PYTHON=/path/to/python names one)" >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

dev: venv  ## a broker on this machine; MQ9_PORT and MQ9_HTTP_PORT move it, ARGS="…" hands arguments on
	@exec $(BIN)/mq9cluster dev $(ARGS)

test: venv  ## all tests; ARGS="tests/unit -k name" picks some
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

check: venv  ## format, lint, types, layers, generated code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python proto/generate.py --check

fmt: venv  ## format, and fix what can be fixed
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

proto: venv  ## generate code from proto/*.proto
	@$(BIN)/python proto/generate.py

sim: venv  ## simulated clusters, seed after seed
	@$(BIN)/python -m pytest -q tests/simulation $(ARGS)

# The doors to RocksDB and to gRPC, and what lies behind them, have other tests: everything else of cluster, machine and
# storage is run by simulated nodes and groups. Nowhere else is anything left out.
SIM_DOORS := */storage/database.py,*/cluster/peers.py,*/cluster/peer_*.py,*/cluster/outbox.py,*/cluster/proto/*

sim-coverage: venv  ## how much of cluster, machine and storage the simulations run
	@export MQ9_SIM_SEEDS=$${MQ9_SIM_SEEDS:-100}; export MQ9_SIM_WHOLE_SEEDS=$${MQ9_SIM_WHOLE_SEEDS:-500}; \
	$(BIN)/coverage run --data-file=.coverage.simulation -m pytest -q tests/simulation/test_whole.py \
	  tests/simulation/test_whole_too.py tests/simulation/test_raft.py -k "not broken and not says_everything" $(ARGS)
	@$(BIN)/coverage report --data-file=.coverage.simulation --show-missing --omit='$(SIM_DOORS)' \
	  --include='mq9cluster/cluster/*,mq9cluster/machine/*,mq9cluster/storage/*'

chaos: venv  ## real nodes under real faults, ten minutes; chaos/README.md
	@$(BIN)/python -m chaos $(ARGS)

chaos-full: venv  ## every fault against every workload, about an hour
	@$(BIN)/python -m chaos --full $(ARGS)

bench: venv  ## measure against nats-server JetStream on this machine
	@$(BIN)/python -m bench $(ARGS)

# uv is needed only here: it is no dependency of the project.
lock:  ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

clean:  ## remove what was generated, .venv too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
