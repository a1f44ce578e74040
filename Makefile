# `make demo` and `make test` do their own set-up; `make help` lists the rest.

.PHONY: help deps nextest demo check test test-long deb test-deb bench bench-kernel fuzz lint

help:
	@echo "make demo       set up this machine, build hearth, and show the main job"
	@echo "make check      format, clippy, unit tests and docs: under a minute once built"
	@echo "make test       set up this machine and run all tests: some 12 minutes"
	@echo "make test-long  boot every kind of emulated board with either initrd, and"
	@echo "                build popular packages natively and emulated: some two hours"
	@echo "make deb        make the Debian package in target/debian"
	@echo "make test-deb   try the package in fresh roots: 2 minutes a suite"
	@echo "make bench      measure hearth against its peers"
	@echo "make fuzz       feed the parsers and servers arbitrary bytes for"
	@echo "                FUZZ_SECONDS (60) each"
	@echo "make lint       rustfmt and clippy, as CI runs them"
	@echo "make deps       only the set-up: install the Debian packages that are missing"

deps:
	@.ci/deps

# What to run before each commit: nothing here boots, builds an image or needs the network.
check: deps nextest lint
	cargo nextest run --locked --lib --bins
	cargo test --locked --doc --quiet
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet

# Tests in a module `long` boot every kind of board with either initrd, one after another.
test: deps nextest lint
	cargo nextest run --locked -E 'not test(/(^|::)long::/)'

test-long: deps nextest
	cargo nextest run --locked -E 'test(/(^|::)long::/)'

nextest:
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

deb:
	@.ci/deb

# Some 2 minutes a suite: the package is installed, used by an ordinary user, upgraded and purged.
test-deb: deps deb
	.ci/try-deb target/debian/hearth_*.deb bookworm trixie

demo: deps
	cargo build --locked --release
	@.ci/demo target/release/hearth

bench: deps
	cargo bench --locked --bench '*'

# The peer takes some 20 minutes for both suites.
bench-kernel: deps
	cargo bench --locked --bench build -- --kernel

# All targets, or those of FUZZ_TARGETS; see fuzz/README.md.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
fuzz: deps
	@.ci/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)
