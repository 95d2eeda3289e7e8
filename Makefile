# Each target installs what it needs and says what it cannot have. Everything large goes into $OTTLA_CACHE (default ~/.cache/ottla);
# cargo's target directory is where $CARGO_TARGET_DIR says. CONTRIBUTING.md tells more.

PYTHON ?= python3
# A bootstrap address for `make demo` on a real cluster.
KAFKA ?=
# Arguments for pytest, for example TESTS='-k zstd'.
TESTS ?=
export PYTHON

phase := scripts/phase
pytest := .venv/bin/python -m pytest
name-of = $(shell sed -n '/^\[package\]/,/^\[[^p]/s/^name = "\(.*\)"/\1/p' $(1)/Cargo.toml 2>/dev/null)
# Extension modules have no Rust tests and are built by their own tools.
not-tested = $(foreach crate,$(call name-of,python) $(call name-of,wasm),--exclude $(crate))

.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python test-cli test-interop test-wasm test-examples wasm lint format bench clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1#/p' $(MAKEFILE_LIST) | awk -F'#' '{printf "make %-14s %s\n", $$1, $$2}'

demo: ## a record's whole way, on 336,776 real flights; KAFKA=host:port leads with a real cluster
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv demo
	@$(phase) "demonstration" .venv/bin/ottla demo --csv "$$(.venv/bin/python scripts/flights)" --key carrier --time time_hour \
	    --header origin --header dest $(if $(KAFKA),--kafka $(KAFKA))

test: test-rust test-python test-cli test-interop test-wasm test-examples ## every test: Rust, Python, command line, interoperability, wasm, examples

test-rust: ## unit and integration tests of the Rust crates
	@$(phase) "an S3 server" scripts/s3 || true
	@$(phase) "Rust tests" scripts/s3 run cargo test --locked --workspace $(not-tested)

test-python: ## the Python package's tests
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv test
	@if [ -d tests/python ]; then $(phase) "Python tests" $(pytest) tests/python $(TESTS); else echo "test-python: there is no tests/python yet"; fi

test-cli: ## the program ottla, as a user runs it
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv test
	@$(phase) "an S3 server" scripts/s3 || true
	@$(phase) "command line tests" scripts/s3 run $(pytest) tests/cli $(TESTS)

test-interop: ## real Kafka clients against Ottla, and against Apache Kafka
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv test
	@$(phase) "real Kafka clients" $(PYTHON) scripts/peers
	@$(phase) "interoperability tests" $(pytest) tests/interop $(TESTS)

test-wasm: ## the wasm package, in Node.js and in Chromium
	@scripts/apt chromium || true
	@if [ -x scripts/wasm ]; then $(phase) "wasm package, for tests" scripts/wasm && $(phase) "wasm tests" node --test tests/wasm/*.test.mjs; else echo "test-wasm: there is no scripts/wasm yet"; fi

test-examples: ## each example, as a user runs it
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv examples
	@scripts/apt chromium || true
	@$(phase) "examples" examples/run

wasm: ## wasm/pkg, from where `npm install ./wasm` takes the npm package
	@if [ -x scripts/wasm ]; then $(phase) "wasm package" scripts/wasm --release; else echo "wasm: there is no scripts/wasm yet"; fi

lint: ## formatting, lints, types, generated files
	@scripts/lint

format: ## put the formatting right
	@cargo fmt --all
	@$(PYTHON) scripts/venv --without-ottla lint
	@.venv/bin/ruff format .

bench: ## measure against other clients and brokers, in the same run
	@$(phase) "build and install ottla into .venv" $(PYTHON) scripts/venv test
	@$(phase) "real Kafka clients" $(PYTHON) scripts/peers
	@if [ -x tests/bench/run ]; then $(phase) "benchmarks" tests/bench/run; else echo "bench: there is no tests/bench/run yet"; fi

clean: ## what the targets here made, but not the cache
	rm -rf target .venv wasm/pkg wasm/build wasm/node_modules .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
