# Everything from a fresh checkout: `make train` needs Python 3.11 or later and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: help setup services browser train check lint types imports test soak chaos fuzz bench docs

help:
	@echo "make train   train the digits experiment in this one process (ARGS='--set training.rounds=3')"
	@echo "make setup   install everything, with RabbitMQ and Redis for distributed runs, and Prometheus for the tests"
	@echo "make check   lint, formatting, types and import contracts"
	@echo "make test    all tests (ARGS='-k name'), against a RabbitMQ, a Redis, a Prometheus and a Chromium of their own"
	@echo "make chaos   runs in which everything fails at random, and must end as if nothing had (ARGS='--seeds 0-99')"
	@echo "make soak    minutes of standing still and hundreds of rounds: memory, queues and keys against their bounds"
	@echo "make fuzz    a million mutated messages through the decoder and a server worker (ARGS='--count 10000 --seed 1')"
	@echo "make bench   speed and memory of this machine"
	@echo "make docs    regenerate docs/settings.md, docs/metrics.md and Grafana's dashboards"

setup: $(INSTALLED) services

train: $(INSTALLED)
	@echo "Training experiments/digits.toml: 12 clients, server workers and coordinator in one process; results in runs/digits."
	@$(BIN)/splitee train $(ARGS)

check: lint types imports

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports --no-logo

test: $(INSTALLED) services browser
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(INSTALLED) services
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(INSTALLED) services
	$(BIN)/pytest -m soak -s $(ARGS) tests/soak

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run $(ARGS)

bench: $(INSTALLED)
	$(BIN)/splitee bench train
	$(BIN)/splitee bench memory

docs: $(INSTALLED)
	$(BIN)/python -m cli.keys > docs/settings.md.new
	mv docs/settings.md.new docs/settings.md
	$(BIN)/python -m cli.metrics_page > docs/metrics.md.new
	mv docs/metrics.md.new docs/metrics.md
	$(BIN)/python -m monitoring.dashboards monitoring/grafana/dashboards

# torch and torchvision come unpinned from one index, so that pip takes two of one build.
$(INSTALLED): pyproject.toml
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "Python 3.11 or later is needed and not in PATH." >&2; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	@echo "Installing into $(VENV): some gigabytes, most of it torch; a minute or more. Done once."
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' \
	    | { grep --line-buffered -oE 'Downloading .*\([0-9.]+ [MG]B\)|Installing collected packages|Successfully installed' || true; }
	@touch $@

# Installs what is missing of COMMAND=PACKAGE ..., with apt-get as root; says what to do by hand where that cannot be.
define installed
@( PATH="$$PATH:/usr/sbin:/usr/local/sbin"; missing=(); \
for wanted in $(1); do command -v "$${wanted%=*}" >/dev/null || missing+=("$${wanted#*=}"); done; \
[ $${#missing[@]} -gt 0 ] || exit 0; \
by_hand="Missing: $${missing[*]}. Install with: apt-get install $${missing[*]} (as root), or your system's package manager."; \
command -v apt-get >/dev/null || { echo "$$by_hand" >&2; exit 1; }; \
sudo=; [ "$$(id -u)" -eq 0 ] || { sudo -n true 2>/dev/null && sudo="sudo -n"; } || { echo "$$by_hand" >&2; exit 1; }; \
echo "Installing $${missing[*]} with apt-get."; \
$$sudo apt-get update -qq && \
$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null )
endef

services:
	$(call installed,rabbitmq-server=rabbitmq-server redis-server=redis-server prometheus=prometheus wget=wget)

# Packages have these names on Debian; elsewhere the other tests can do without.
browser:
	$(call installed,chromium=chromium chromedriver=chromium-driver) \
	    || { [ -z "$${CI:-}" ] && echo "Without a browser the tests that need one are skipped." >&2; }
