# Every target sets up what it needs in .venv, once; nothing is installed outside this folder.

PYTHON ?= python3
ARGS ?=
ROWS ?= all
KILLS ?= 25
STORE ?= sqlite
CASES ?= 2000
WORKERS ?= $(SHOP_WORKERS)
KEYS ?= $(if $(filter sqlite,$(STORE)),10000000,1000000)

# Tests and demos run many processes; without bytecode on the disk each of them would compile all the code anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(shell find protos -name '*.proto' | sort)
OPTION := protos/grpc_idempotency/v1/policy.proto

# More processes than the cores of a small machine, since many tests wait; fewer for all tests, as some start many servers.
pytest = $(BIN)/pytest --numprocesses $(1) --dist worksteal
# The fast tests make thousands of small databases, whose commits wait for the disk. Where 2 GiB of memory are free for files,
# they are made there.
in_memory = set -e; \
	if [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')" -ge 2097152 ] 2>/dev/null; then \
		PYTEST_DEBUG_TEMPROOT=$$(mktemp -d /dev/shm/tests.XXXXXX); export PYTEST_DEBUG_TEMPROOT; \
		trap 'rm -rf "$$PYTEST_DEBUG_TEMPROOT"' EXIT; trap 'exit 130' INT TERM; \
	fi;

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo run test test-all protos lint format bench bench-scale flame crash misuse drill compat docs docs-figures clean
MAKEFLAGS += --no-print-directory

help: ## Show this list
	@echo "Usage: make TARGET [PYTHON=python3.12] [ARGS='…']"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## Set up .venv for development; the other targets do it when they need it

demo: $(VENV)/$(if $(filter sqlite,$(STORE)),.shop,.dev) ## Play the story: a lost reply, a retry, one order (STORE=postgresql, redis: on two hosts)
	@$(BIN)/python -m shop.demo --store $(STORE) $(ARGS)

run: $(VENV)/.shop ## Serve the shop on 127.0.0.1:50051, data under data/ (WORKERS=4: by four processes)
	@SHOP_WORKERS=$(WORKERS) exec $(BIN)/python -m shop $(ARGS)

test: $(VENV)/.dev ## Run the fast tests (ARGS='-k name' for some)
	@$(in_memory) $(call pytest,6) -m "not slow" $(ARGS)

test-all: $(VENV)/.dev ## Run all tests, those too that kill servers, build, or take long
	@$(call pytest,4) --hypothesis-profile thorough $(ARGS)

protos: $(VENV)/.dev ## Compile protos/ into server/ and interceptors/
	@set -e; $(call compile,server,interceptors)

lint: $(VENV)/.dev ## Check style, types, imports, protos and that no stub has drifted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@echo "$(BIN)/buf lint"
	@$(in_scratch) $(lint_protos)
	@echo "stubs match protos"
	@$(in_scratch) $(check_drift)

format: $(VENV)/.dev ## Put code into shape
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write protos

bench: $(VENV)/.dev ## Measure what the interceptor costs, beside targets (STORE=postgresql, redis, memory)
	@$(BIN)/python -m bench --store $(STORE) $(ARGS)

bench-scale: $(VENV)/.dev ## Measure it with KEYS stored keys, under a sweep, and after a million calls (STORE=postgresql)
	@$(BIN)/python -m bench.scale --store $(STORE) --keys $(KEYS) $(ARGS)

flame: $(VENV)/.dev ## Draw where a server's time goes under load (ARGS='--case first-sync --callers 1')
	@$(BIN)/python -m bench.flame --store $(STORE) $(ARGS)

crash: $(VENV)/.dev ## Kill two servers KILLS times under load, and prove that nothing went wrong (STORE=postgresql, redis)
	@$(BIN)/python -m crash --kills $(KILLS) --store $(STORE) $(ARGS)

misuse: $(VENV)/.dev ## Play CASES handlers that misbehave on stores that fail, and check every promise
	@$(BIN)/python -W ignore -m tests.misuse --cases $(CASES) $(ARGS)

drill: $(VENV)/.dev ## Kill a server in an opaque call, and resolve the operation as the docs tell, with the times
	@$(BIN)/python -m tests.incident $(ARGS)

compat: $(VENV)/.dev ## Try it with oldest to newest grpcio, protobuf and drivers of stores (ROWS=ends: two rows)
	@$(BIN)/python -m tests.compat $(ROWS)

docs: $(VENV)/.docs ## Build the site of the documentation into build/site
	@$(BIN)/python -m docsite

docs-figures: $(VENV)/.dev ## Draw the pictures of the documentation anew, and record the demo
	@$(BIN)/python -m docsite.pictures
	@$(BIN)/python -m docsite.recording

clean: ## Remove what make made: .venv, build output, caches (data/ stays)
	rm -rf $(VENV) .venvs build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find interceptors server tests bench crash -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- Protos ---------------------------------------------------------------------------------------------------------

# Google's own protos come with googleapis-common-protos and, for google/protobuf, with grpcio-tools itself.
google = $$($(BIN)/python -c 'import google.type.money_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')
protoc = $(BIN)/python -m grpc_tools.protoc -Iprotos -I"$(google)"
# The shop's stubs go to $(1). Of the library's own proto $(2) gets the descriptor, which policy_pb2.py reads, and the types.
compile = $(protoc) --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet,generate_concrete_servicer_stubs:$(1) \
	$(filter protos/shop/%,$(PROTOS)); \
	$(protoc) --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(2) \
	--descriptor_set_out=$(2)/grpc_idempotency/v1/policy.binpb $(OPTION)

in_scratch = set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT;

# buf can't see Google's protos, so it gets an image that has them, and lints ours alone.
lint_protos = $(protoc) --include_imports --include_source_info --descriptor_set_out="$$scratch/protos.binpb" $(PROTOS); \
	$(BIN)/buf lint "$$scratch/protos.binpb" --config buf.yaml $(PROTOS:protos/%=--path %)

check_drift = mkdir -p "$$scratch/tree" "$$scratch/fresh/grpc_idempotency/v1"; \
	$(call compile,"$$scratch/fresh","$$scratch/fresh"); \
	(cd server && find . -name '*_pb2.py*' -o -name '*_pb2_grpc.py*' | tar -cf - -T -) | tar -xf - -C "$$scratch/tree"; \
	(cd interceptors && tar -cf - grpc_idempotency/v1/policy.binpb grpc_idempotency/v1/*.pyi) | tar -xf - -C "$$scratch/tree"; \
	diff -r "$$scratch/tree" "$$scratch/fresh" || { echo "Generated code has drifted: run 'make protos' and commit." >&2; exit 1; }

# --- Set-up ---------------------------------------------------------------------------------------------------------

# A stock Debian python3 makes a venv only without pip. A pip from outside (22.3 or newer), or else ensurepip, then puts a
# pip into it that knows dependency groups.
$(VENV)/.pip:
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@set -e; \
	for pip in pip pip3 "$(PYTHON) -m pip" none; do \
		if $$pip --python $(BIN)/python --version >/dev/null 2>&1; then break; fi; \
	done; \
	if [ "$$pip" = none ]; then \
		$(BIN)/python -m ensurepip >/dev/null || { echo "This needs pip 22.3 or newer, or python3-venv." >&2; exit 1; }; \
		pip="$(BIN)/python -m pip"; \
	fi; \
	$$pip --python $(BIN)/python install -qq --disable-pip-version-check 'pip>=25.1'
	@touch $@

comma := ,
define install
	@echo "Setting up $(VENV) $(3) (once; some 30 s)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '$(1)' --group $(2)
endef

# Each rule touches its stamp last, so that an interrupted set-up is done again.
$(VENV)/.shop: pyproject.toml | $(VENV)/.pip
	$(call install,.[postgres$(comma)redis],shop,to run the shop)
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.pip
	@echo "Setting up $(VENV) to build the documentation (once; some 30 s)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --group docs
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.pip
	$(call install,.[check$(comma)postgres$(comma)redis$(comma)retry],dev,for development)
	@touch $@ $(VENV)/.shop $(VENV)/.docs
