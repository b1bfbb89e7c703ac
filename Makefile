# Every way to build and check limpet. `make demo` and `make test` each suffice on a fresh clone:
# they make .venv, install the locked packages into it and build. Nothing is installed elsewhere.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
export PYTHON

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
BUILT := $(VENV)/built
LOCK := packaging/requirements.txt
FREEZE_LOCK := packaging/requirements-freeze.txt
BENCH_LOCK := packaging/requirements-bench.txt
BENCHED := $(VENV)/benched

CARGO_WORKSPACE := --manifest-path native/Cargo.toml --locked
NATIVE_SOURCES := $(shell find native -name target -prune -o -type f -print)
BUILD_FILES := pyproject.toml runtime/limpet/native/ffi_build.py

HEADER := native/include/limpet.h
CBINDGEN_VERSION := 0.29.4
CBINDGEN := build/cargo/bin/cbindgen

CARGO_MUTANTS_VERSION := 27.1.0
CARGO_MUTANTS := build/cargo/bin/cargo-mutants

PIP_TOOLS_VERSION := 7.6.2
PIP_COMPILE := CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/pip-compile --quiet --upgrade \
    --generate-hashes --allow-unsafe --strip-extras --no-emit-options \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: help demo test test-vm check sim fuzz chaos duel stalls soak capped capped-frozen bench valgrind loom mutants mutants-core
.PHONY: build freeze test-frozen test-board test-reproducible measure-frozen measure-release
.PHONY: measure-inspect deb image
.PHONY: test-carriers test-systemd
.PHONY: lock freeze-lock header clean prerequisites

# What `make freeze` makes for ARCH, and all carriers carry: x86_64, aarch64 or armv7.
ARCHS := x86_64 aarch64 armv7
ARCH ?= x86_64
FROZEN ?= dist/limpet-$(ARCH)
# An image is for all of them, unless one is named.
IMAGE_FILES := $(if $(filter file,$(origin ARCH)),$(ARCHS:%=dist/limpet-%),$(FROZEN))

help: ## List these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BUILT) ## Run the demonstration: a broker, an agent and its tasks, on this machine
	@$(BIN)/limpet demo

test: $(BUILT) ## Run every test, Rust and Python; the last line is the sum
	@mkdir -p build; rm -f build/test-*; broken=0; \
	cargo test $(CARGO_WORKSPACE) --workspace --no-fail-fast 2>&1 \
	    | tee build/test-rust.log || broken=1; \
	$(BIN)/pytest --color=no 2>&1 | tee build/test-python.log || broken=1; \
	awk -v broken=$$broken "$$SUM_OF_TESTS" build/test-rust.log build/test-python.log \
	    | tee build/test-sum; \
	exit $$broken

check: $(INSTALLED) ## Check formats, lints and types
	@packaging/prerequisites.sh check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cargo fmt --manifest-path native/Cargo.toml --all --check
	cargo clippy $(CARGO_WORKSPACE) --workspace --all-targets -- -D warnings

sim: $(BUILT) ## Simulate: SEEDS=N histories of the machine, a twentieth of the whole agent; or SEED=N
	PYTHONPATH=tests/e2e $(BIN)/python tests/sim/many.py

chaos: $(BUILT) ## Kill agent, broker and link under 1,000 real tasks; SEED=N, TASKS=N
	PATH=$$PATH:/usr/sbin $(BIN)/python tests/e2e/chaos.py

fuzz: $(BUILT) ## Feed everything that parses with anything: SECONDS=N; KEEP=1 renews the corpus; ONLY=models
	PYTHONPATH=tests/e2e SECONDS=$${SECONDS:-60} $(BIN)/python tests/fuzz.py

duel: $(BUILT) ## Let limpet and a script of sixty lines meet the same seven faults
	PATH=$$PATH:/usr/sbin $(BIN)/python tests/e2e/duel.py

stalls: $(BUILT) ## Hold up each thread of the agent, and measure how late deadlines are
	PATH=$$PATH:/usr/sbin $(BIN)/python tests/e2e/stalls.py

soak: $(BUILT) ## Run 100,000 tasks and count what is kept and written; needs root; TASKS=N
	PATH=$$PATH:/usr/sbin $(BIN)/python tests/e2e/soak.py

capped: $(BUILT) ## Press an agent in 32 MiB with its steps, in 24 MiB alone; needs root; TASKS=N
	PATH=$$PATH:/usr/sbin PYTHONPATH=tests/frozen:tests/hostile:tests/sim $(BIN)/python \
	    tests/e2e/capped.py

capped-frozen: $(BUILT) $(FROZEN) ## The same for the single executable, alone in 20 MiB and by TLS
	LIMPET_FROZEN=$(FROZEN) $(MAKE) --no-print-directory capped

bench: $(BUILT) $(BENCHED) ## Measure limpet beside what people run today; root; BENCH=quick
	cargo build $(CARGO_WORKSPACE) --quiet --release -p limpet-bench
	PATH=$$PATH:/usr/sbin PYTHONPATH=tests/e2e $(BIN)/python tests/bench/bench.py \
	    --size $(or $(BENCH),full)
	PYTHONPATH=tests/e2e $(BIN)/python tests/bench/report.py $(if $(filter full,$(or $(BENCH),full)),,--quick)

valgrind: $(BUILT) ## Watch a C program with every function of the ABI, and the driver's tests
	PYTHONPATH=tests:tests/e2e $(BIN)/python tests/abi/valgrind.py

test-vm: $(BUILT) ## Run the tests of limits on a kernel with control groups of version 2, emulated
	PYTHONPATH=tests/e2e $(BIN)/python tests/vm/emulate.py

# A target folder of its own: the flag would have everything else built anew.
loom: | prerequisites ## Let the threads' queues meet in every order
	RUSTFLAGS='--cfg loom' cargo test $(CARGO_WORKSPACE) -p limpet-rings --lib --release \
	    --target-dir $${CARGO_TARGET_DIR:-native/target}/loom

mutants: $(BUILT) ## Put known bugs into a copy of the tree: a test must find each; QUICK=1
	PYTHONPATH=tests/e2e $(BIN)/python tests/mutants/mutate.py $(if $(QUICK),--quick)

mutants-core: $(INSTALLED) $(CARGO_MUTANTS) ## Change native/core in every small way: a test must notice; AGAIN=1
	PYTHONPATH=tests/e2e $(BIN)/python tests/mutants/core.py $(if $(AGAIN),--again)

freeze: ## Build dist/limpet-ARCH, the single executable; ARCH=x86_64 (as it is), aarch64, armv7; RELEASE=1
	packaging/freeze/freeze $(ARCH)
	packaging/verify dist/limpet-$(ARCH)

test-frozen: $(BUILT) freeze ## Build the single executable and test it, emulated if foreign; ARCH=
	PYTHONPATH=tests/e2e $(BIN)/python tests/frozen/prove.py dist/limpet-$(ARCH)

test-board: $(BUILT) $(FROZEN) ## Boot the file on an emulated board; root; ARCH=aarch64, armv7
	PYTHONPATH=tests/e2e:tests/vm $(BIN)/python tests/vm/board.py $(FROZEN)

test-reproducible: ## Build HEAD twice, in two places and from nothing: the files must be the same
	packaging/freeze/twice $(ARCH)

measure-frozen: $(BUILT) ## Measure the files in dist/: size, start, memory, smallest cap; needs root
	PATH=$$PATH:/usr/sbin PYTHONPATH=tests/e2e:tests/frozen $(BIN)/python tests/frozen/measure.py

measure-release: $(BUILT) ## Measure what RELEASE=1 brings: both files do the same work in turns
	packaging/freeze/freeze x86_64
	mv dist/limpet-x86_64 build/freeze/ordinary
	RELEASE=1 packaging/freeze/freeze x86_64
	PATH=$$PATH:/usr/sbin PYTHONPATH=tests/e2e:tests/frozen $(BIN)/python \
	    tests/frozen/release.py build/freeze/ordinary dist/limpet-x86_64

measure-inspect: $(BUILT) ## Measure inspect: a file of 100 GB, and hashing beside sha256sum
	PYTHONPATH=tests/e2e:tests/inventory $(BIN)/python tests/inventory/costs.py

build: $(BUILT) ## Build the core and install limpet into .venv, editable

deb: $(BUILT) $(FROZEN) ## Make the Debian package of the frozen file for ARCH
	@packaging/prerequisites.sh deb
	packaging/deb/build.sh $(FROZEN) dist

image: $(BUILT) $(IMAGE_FILES) ## Make one image for all platforms, or with ARCH for one
	@packaging/prerequisites.sh image
	packaging/oci/build.sh dist/limpet.oci.tar $(IMAGE_FILES)

test-carriers: $(BUILT) $(FROZEN) ## Install, upgrade and run the package and the image; needs root
	@packaging/prerequisites.sh carriers
	LIMPET_FROZEN=$(FROZEN) PATH=$$PATH:/usr/sbin:/sbin $(BIN)/pytest tests/carriers

test-systemd: $(BUILT) $(FROZEN) ## Run the package under systemd in an emulated machine; needs root
	@packaging/prerequisites.sh carriers
	LIMPET_FROZEN=$(FROZEN) PYTHONPATH=tests:tests/e2e:tests/vm $(BIN)/python tests/carriers/booted.py

$(sort $(FROZEN) $(IMAGE_FILES)):
	@echo 'cannot package $@: it is not there (make freeze makes it)' >&2; exit 1

lock: | prerequisites ## Lock the newest Python packages that pyproject.toml allows
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet pip-tools==$(PIP_TOOLS_VERSION)
	$(PIP_COMPILE) --all-build-deps --extra test --extra check --extra package \
	    -o $(LOCK) pyproject.toml
	@# Of tomli the wheel that is only Python: the compiled one takes a third of a megabyte for good.
	build/lock/bin/pip download --quiet --no-deps --platform any --only-binary=:all: \
	    --dest build/lock/pure "$$(sed -n 's/^\(tomli==[0-9.]*\).*/\1/p' $(LOCK))"
	sum=$$(sha256sum build/lock/pure/tomli-*.whl | cut -c1-64); \
	sed -i "/^tomli==/,/^[^ ]/{/--hash=/{/$$sum/!d;s/ \\\\$$//}}" $(LOCK)
	$(PIP_COMPILE) --constraint $(LOCK) --all-build-deps --extra freeze \
	    -o $(FREEZE_LOCK) pyproject.toml
	$(PIP_COMPILE) --constraint $(LOCK) --all-build-deps --extra bench \
	    -o $(BENCH_LOCK) pyproject.toml

freeze-lock: ## Lock the build root of `make freeze` as Debian 12 is now
	packaging/freeze/root lock $(CURDIR)/build/freeze/root-to-lock

# The exporting macro is expanded first (the variable lets a stable compiler do that), then only the
# modules of the interface are shown to cbindgen, which would export the constants of all others too.
header: $(CBINDGEN) ## Generate native/include/limpet.h from native/driver/src/ffi.rs
	RUSTC_BOOTSTRAP=1 cargo rustc $(CARGO_WORKSPACE) --quiet -p limpet-driver --lib \
	    --profile check -- -Zunpretty=expanded \
	    | sed -n '/^\(pub \)\?mod \(ffi\|guard\) {/,/^}/p' > build/interface.rs
	$(CBINDGEN) --quiet --config native/cbindgen.toml --output $(HEADER) build/interface.rs

clean: ## Remove everything that was built or installed here
	rm -rf $(VENV) build dist runtime/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f runtime/limpet/native/_core.*.so runtime/limpet/native/limpet-tool
	cargo clean --quiet --manifest-path native/Cargo.toml

prerequisites:
	@packaging/prerequisites.sh

$(INSTALLED): $(LOCK) | prerequisites
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@touch $@

$(BUILT): $(INSTALLED) $(BUILD_FILES) $(NATIVE_SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --editable .
	@touch $@

$(BENCHED): $(BENCH_LOCK) $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(BENCH_LOCK)
	@touch $@

$(CBINDGEN): | prerequisites
	cargo install cbindgen --version $(CBINDGEN_VERSION) --locked --quiet --root build/cargo

$(CARGO_MUTANTS): | prerequisites
	cargo install cargo-mutants --version $(CARGO_MUTANTS_VERSION) --locked --quiet \
	    --root build/cargo

# Adds up the closing lines of cargo and pytest. A run that ended badly without a failed test, for
# example because something did not compile, counts as one failure.
define SUM_OF_TESTS
/^test result:/ { passed += $$4; failed += $$6; skipped += $$8 }
/ in [0-9.]+s.* =+$$/ {
    for (i = 2; i <= NF; i++) {
        if ($$i ~ /^passed/) passed += $$(i - 1)
        if ($$i ~ /^(failed|errors?)/) failed += $$(i - 1)
        if ($$i ~ /^(skipped|xfailed)/) skipped += $$(i - 1)
    }
}
END {
    if (broken && !failed) failed = 1
    printf "%d passed, %d failed", passed, failed
    if (skipped) printf ", %d skipped", skipped
    print ""
}
endef
export SUM_OF_TESTS
