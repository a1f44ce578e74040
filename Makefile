# `make demo` and `make test` do their own set-up; `make help` lists the rest.

.PHONY: help deps demo test bench lint

help:
	@echo "make demo   set up this machine, build hearth, and show the main job"
	@echo "make test   set up this machine and run all tests"
	@echo "make bench  measure hearth against its peers"
	@echo "make lint   rustfmt and clippy, as CI runs them"
	@echo "make deps   only the set-up: install the Debian packages that are missing"

deps:
	@.ci/deps

test: deps lint
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
