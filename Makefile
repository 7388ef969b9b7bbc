# bitnet-trace. `make help` says what there is.

# BCC imports only in the distribution's own Python, so the venv is made by that one.
PYTHON ?= /usr/bin/python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done
PREFIX ?= /usr/local
PACKAGES := python3-bpfcc python3-venv gcc g++ make sudo
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
# test-bpf keeps the switch that turns skips into failures; sudo drops the rest of the environment.
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=BITNET_TRACE_REQUIRE_BPF)
PYTEST := $(BIN)/python -m pytest
# Against the running kernel: what is timed, or of the whole system, one test after the other; what is marked `untimed`, two
# files at a time. All of them, whatever fails. A rented machine's CPUs are taken away at times, so what failed is run once
# more, alone, and counts when it fails again.
KEPT = -o cache_dir=build/bpf-tests
BPF_TESTS = failed=0; $(SUDO) $(PYTEST) $(KEPT) --cache-clear -n 2 --dist loadfile -m untimed tests/bpf || failed=1; \
    $(SUDO) $(PYTEST) $(KEPT) -m 'not untimed' tests/bpf || failed=1; \
    [ $$failed = 0 ] || $(SUDO) $(PYTEST) $(KEPT) --last-failed --last-failed-no-failures none tests/bpf

.DEFAULT_GOAL := help
.PHONY: help setup packages browser demo test test-unit test-bpf lint format bench golden docs build install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install what is missing: distribution packages (as root) and the venv .venv

# A package that is missing is installed from the package lists that are there; they are fetched only when that fails.
packages:
	@missing=; for p in $(PACKAGES); do \
	    [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" != 0 ]; then \
	    echo "missing distribution packages; install them with: sudo apt-get install$$missing" >&2; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	install="apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $$missing"; \
	$$install >/dev/null 2>&1 || { apt-get update -qq && $$install >/dev/null; }

$(STAMP): pyproject.toml | packages
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --system-site-packages $(VENV)
	@$(PIP) install -e '.[demo,dev]'
	@touch $@

browser: ## Chromium: tests open HTML reports in it (they skip without), docs takes pictures (root)
	@command -v chromium >/dev/null || apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null

demo: setup ## trace the embedded workload: a synthetic ternary model, decoded (root)
	@$(SUDO) $(BIN)/bitnet-trace demo --force

test: lint ## everything: lint, test-unit and test-bpf (root)
	$(SUDO) $(PYTEST) -p no:cacheprovider -n auto tests/unit
	$(BPF_TESTS)

test-unit: setup ## tests that need no root
	$(PYTEST) -n auto tests/unit

test-bpf: setup ## tests against the running kernel (root)
	$(BPF_TESTS)

lint: setup ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bitnet_trace

format: setup ## reformat and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the cost of start-up and of tracing on this machine (root)
	$(SUDO) $(BIN)/python -m tests.bench

golden: setup ## keep what reports of known recordings say now, in tests/golden: read `git diff` then
	$(BIN)/python tests/unit/golden.py

soak: setup ## half an hour of the live view: its memory and CPU time (root); SOAK_SECONDS=120 for less
	$(SUDO) $(BIN)/python -m tests.bench.soak --seconds $(or $(SOAK_SECONDS),1800)

docs: setup browser ## the pictures of README and docs, of a recording of the demo, or of RECORDING (root)
	mkdir -p build docs/images
	$(if $(RECORDING),,$(SUDO) $(BIN)/bitnet-trace demo --tokens 256 --force -o build/hello.btrace >/dev/null)
	$(BIN)/python docs/screenshot.py $(or $(RECORDING),build/hello.btrace) docs/images

build: setup ## the wheel, in dist/
	$(PIP) wheel --no-deps --wheel-dir dist .

install: setup ## link PREFIX/bin/bitnet-trace, where sudo finds it (root)
	ln -sf $(abspath $(BIN))/bitnet-trace $(PREFIX)/bin/bitnet-trace
	@folder=$(abspath $(BIN)); while [ "$$folder" != / ]; do \
	    case $$(stat -c %A "$$folder") in \
	        *[xt]) ;; \
	        *) echo "note: only root can run it, and the demo cannot run as its user: chmod o+x $$folder" >&2;; \
	    esac; \
	    folder=$$(dirname "$$folder"); \
	done

clean: ## remove the venv and everything that was built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/programs/bin
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
