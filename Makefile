# Everything a person or a CI machine does with this repository. One line each: make help.

PREFIX ?= /usr/local
DESTDIR ?=
# mount(8) looks for mount.brick in /sbin and nowhere else.
MOUNTDIR ?= /sbin
UNITDIR ?= /lib/systemd/system
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
BIN := $(TARGET)/release
PROGRAMS := brickd brick mount.brick
export TARGET BIN

.DEFAULT_GOAL := build
.PHONY: help needs build demo demo-stop test bench soak mutants fix install deb

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

needs: ## install the Debian packages that building and testing need
	@sh integration/suite/needs.sh

build: needs ## the three programs, optimised (the first time 15 to 20 minutes on two cores)
	cargo build --release --locked --workspace --bins
	@ln -f $(BIN)/mount-brick $(BIN)/mount.brick

demo: ## three daemons, a replicated volume and a mount under ./demo (root)
	@sh integration/demo/root.sh demo
	@$(MAKE) --no-print-directory build
	@sh integration/demo/up.sh

demo-stop: ## end the demo and remove it (root)
	@sh integration/demo/root.sh demo-stop
	@sh integration/demo/down.sh

test: ## formats, lints, unit, simulation, cluster and mount tests; what CI runs
	@sh integration/suite/needs.sh
	@sh integration/suite/test.sh

bench: build ## micro-benchmarks and brick-bench against the running demo
	@sh integration/suite/bench.sh

# The simulation alone, when one of these is given; it needs no build of the product.
ifneq ($(SEEDS)$(PLANT)$(REPLAY),)
soak:
	@cargo run --quiet --release --locked -p integration-sim -- $(if $(PLANT),--plant $(PLANT)) \
		$(if $(REPLAY),--replay $(REPLAY),--seeds $(or $(SEEDS),2000))
else
soak: build ## kill tests, 20 rounds (an hour, root); SEEDS=n, PLANT=name|list, REPLAY=seed: the simulation
	@BRICK_ROUNDS=$${BRICK_ROUNDS:-20} BRICK_FULL=1 BRICK_SUITE_LIMIT=14400 sh integration/suite/test.sh \
		harness cluster semantics promises locks stranger format kill mount_kill faults scenarios two_peers recover complaints apps demo
endif

mutants: ## mutation testing of the rules (hours; FILE=proto/rules/src/... for one file)
	@cargo mutants --version >/dev/null 2>&1 || { echo "cargo-mutants is not installed: cargo install --locked cargo-mutants --version 25.3.1" >&2; exit 1; }
	cargo mutants --output target -p proto-rules --timeout 30 $(if $(FILE),--file $(FILE)) -- --lib

fix: ## format, and apply what clippy can
	cargo fmt --all
	cargo clippy --release --locked --workspace --all-targets --fix --allow-dirty --allow-staged

install: ## programs, unit file, completion to DESTDIR and PREFIX
	@for p in $(PROGRAMS); do test -x $(BIN)/$$p || { echo "$(BIN)/$$p is not built: run 'make' first" >&2; exit 1; }; done
	install -D -m 0755 $(BIN)/brickd $(DESTDIR)$(PREFIX)/sbin/brickd
	install -D -m 0755 $(BIN)/brick $(DESTDIR)$(PREFIX)/bin/brick
	install -D -m 0755 $(BIN)/mount.brick $(DESTDIR)$(MOUNTDIR)/mount.brick
	@mkdir -p $(DESTDIR)$(UNITDIR)
	sed 's|@SBINDIR@|$(PREFIX)/sbin|' server/packaging/brickd.service > $(DESTDIR)$(UNITDIR)/brickd.service
	@chmod 0644 $(DESTDIR)$(UNITDIR)/brickd.service
	install -d -m 0755 $(DESTDIR)/etc/brickwork
	@test -e $(DESTDIR)/etc/brickwork/brickd.toml || \
		install -m 0644 server/packaging/brickd.toml $(DESTDIR)/etc/brickwork/brickd.toml
	@mkdir -p $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(BIN)/brick completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/brick

deb: build ## a Debian package in $(TARGET)
	@sh server/packaging/deb.sh
