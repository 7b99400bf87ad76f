# Two commands matter: `make demo` and `make test`. Both want root (they boot servers in namespaces)
# and install what they need on a fresh Debian 12.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
LAB ?= demo
SERVERS ?= 3

.PHONY: help setup build demo test test-deep fuzz lint bench lab-up lab-down clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Install what the build, the lab and the tests need (Debian 12, root)
	@tests/setup.sh

# The agent by itself: together with the others it would carry what only they need.
build: setup ## Build kdc-install and kdc-agent for release
	@cargo build --release -p kdc-agent
	@cargo build --release -p kdc-install -p kdc-tests

# Before the long build: whether this host can have a lab at all.
.PHONY: host
host:
	@bash -c '. tests/host.sh' make

demo: host build ## A real three-node cluster on lab servers, from one signed bundle (KEEP=1 keeps it)
	@tests/demo.sh

test: host setup lint ## Every test that CI runs
	@tests/test.sh

test-deep: host setup ## The long tests as a whole (hours)
	@tests/test-deep.sh

fuzz: setup ## Every reader of outside bytes under libFuzzer, FUZZ_SECONDS (600) each
	@tests/fuzz.sh

# A warning fails it with the Rust that Cargo.toml names; a newer one may have lints that nobody here has seen.
lint: setup ## Format, clippy, house rules
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- \
	  $$(if cargo clippy --version | grep -qF ' 0.$(RUST)'; then echo -D warnings; fi)

bench: host build ## Speed, as ratios against named peers in the same run
	@tests/bench.sh

lab-up: host build ## Boot SERVERS lab servers named LAB and leave them running
	@target/release/kdc-lab up --name $(LAB) --servers $(SERVERS)

lab-down: build ## Take the lab LAB away
	@target/release/kdc-lab down --name $(LAB)

clean: ## Remove build output (the cache under ~/.cache/kdc stays)
	@cargo clean
