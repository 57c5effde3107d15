# Two commands do everything on a fresh Debian or Ubuntu machine with git and Rust:
#   make drill   set up, build, and rehearse the main job on this machine
#   make test    set up, build, and pass every test
# and `make test-vm` runs the binary on Debian's kernels in virtual machines.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
INVAR := target/$(TARGET)/release/invar
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")

.PHONY: help setup build-setup drill test test-vm lint deny bench soak fuzz clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build-setup:
	@script/setup build

setup: ## Install what building and testing need (Debian packages)
	@script/setup all

drill: build-setup ## Attack a throw-away container and show every defence
	cargo build --release --bin invar
	$(AS_ROOT) $(INVAR) drill

test: setup ## Build and run all tests (as root: they start containers)
	$(AS_ROOT) script/run-tests

test-vm: ## Test on kernels 6.1 and 6.12, control groups v2 and fs-verity, in virtual machines
	@script/setup vm
	$(AS_ROOT) script/test-vm

lint: build-setup ## Formatting, clippy, crate layers
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	script/check-layers

deny: build-setup ## Licences and sources of dependencies (installs cargo-deny once, some minutes)
	@cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked
	cargo deny check bans licenses sources

bench: setup ## Measure invar beside docker, podman, crun and find in one run
	cargo build --release --bin invar
	$(AS_ROOT) bench/run

soak: build-setup ## Deploy and roll back under load for an hour (SOAK_MINUTES=…), a million requests through switches
	cargo test --release --package invar-gateway --test soak -- --ignored
	cargo test --release --package invar --test rollout_soak --no-run
	$(AS_ROOT) cargo test --release --package invar --test rollout_soak -- --ignored --nocapture

fuzz: build-setup ## Run every fuzz target for a bounded time
	script/fuzz

clean: ## Remove what was built
	cargo clean
